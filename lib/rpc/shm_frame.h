// ShmFrame: calls and answers as bytes in shared memory. Both programs are of one build and one
// machine, so numbers lie as they are in memory: a head of fixed size, lists behind it, and the
// payload from the next cache line on, so that it can be computed on where it lies. What a peer
// wrote is read once into memory of our own and checked, but for the payload, whose values may be
// anything and may change.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "lib/rpc/expert_call.h"

namespace tandem::rpc {

// A status message is a sentence; a longer one is cut.
inline constexpr size_t kStatusBytesMax = 1024;

// Bytes of the frame of `call`; may be more than any ring holds.
uint64_t CallFrameBytes(const OutgoingCall& call);

// Bytes of the largest answer the call may get, for looking whether it fits before it is asked for.
uint64_t AnswerFrameBytesOf(const OutgoingCall& call);

// Writes `call` to `frame` [CallFrameBytes(call)], aligned to 64 bytes. `sent_ns` is now on
// CLOCK_MONOTONIC.
void WriteCall(const OutgoingCall& call, uint64_t call_id, uint64_t deadline_ms, int64_t sent_ns,
               std::byte* frame);

// A call taken from a frame: `call` views the lists here, and its payload lies in the frame.
struct ReceivedCall {
  IncomingCall call;
  int64_t sent_ns = 0;  // as the peer says
  std::string model_digest;
  std::vector<uint32_t> experts_per_row, expert_ids;
  std::vector<float> expert_weights;
  std::vector<int32_t> grid_exponents;
};

// INVALID_ARGUMENT (expected and found) when sizes do not fit the frame. `received` must stay where
// it is as long as `received->call` is used.
absl::Status ReadCall(std::span<const std::byte> frame, ReceivedCall* received);

// Where an answer's parts lie.
struct AnswerLayout {
  tensor::v1::WireDType dtype = tensor::v1::WIRE_DTYPE_UNSPECIFIED;
  uint32_t rows = 0;
  uint32_t cols = 0;
  uint32_t flags = 0;
  uint64_t flags_offset_bytes = 0;
  uint64_t sums_offset_bytes = 0;  // a multiple of 64
  uint64_t frame_bytes = 0;
};
AnswerLayout LayoutOfAnswer(tensor::v1::WireDType dtype, uint32_t rows, uint32_t cols,
                            uint32_t flags);

// Completes the answer at `frame` [layout.frame_bytes], whose sums and flags are there already.
// `head.status` is OK.
void WriteAnswerHead(const AnswerLayout& layout, const ReplyHead& head, uint64_t call_id,
                     std::byte* frame);

// A frame that says why there is no answer.
uint64_t RefusalFrameBytes(const ReplyHead& head);
void WriteRefusal(const ReplyHead& head, uint64_t call_id, std::byte* frame);

struct ReceivedAnswer {
  uint64_t call_id = 0;
  absl::Status status;  // what the worker said
  Answer answer;        // views lie in the frame; `memory` is for the caller to set
};
// INVALID_ARGUMENT (expected and found) when sizes do not fit the frame.
absl::Status ReadAnswer(std::span<const std::byte> frame, ReceivedAnswer* received);

}  // namespace tandem::rpc
