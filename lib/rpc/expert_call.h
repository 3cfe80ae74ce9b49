// What a GPU worker asks an expert worker and what it answers, as views of memory that somebody
// else owns: a transport writes rows from where they are to where they travel, and a compute loop
// writes sums where they leave from, without messages in between. proto/experts.proto says what
// each field means; here is how it lies in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/rpc/tensor_frame.h"
#include "proto/experts.pb.h"

namespace tandem::rpc {

// The fields of ExpertRows that both directions share.
struct CallFields {
  uint64_t epoch = 0;
  std::string_view model_digest;
  uint32_t layer = 0;
  experts::v1::ReplyForm reply_form = experts::v1::REPLY_FORM_UNSPECIFIED;
  experts::v1::ActivationForm activation_form = experts::v1::ACTIVATION_FORM_UNSPECIFIED;
  std::span<const uint32_t> experts_per_row;  // [rows]
  std::span<const uint32_t> expert_ids;       // [sum of experts_per_row]
  std::span<const float> expert_weights;      // [sum of experts_per_row]
  std::span<const int32_t> grid_exponents;    // [rows] for GRID_SUM
};

// A call about to leave. Rows lie wherever the caller has them.
struct OutgoingCall : CallFields {
  tensor::v1::WireDType dtype = tensor::v1::WIRE_DTYPE_UNSPECIFIED;
  uint32_t cols = 0;
  std::span<const std::byte* const> rows;  // [rows] pointers to [cols] of dtype, any alignment

  uint64_t row_bytes() const { return uint64_t{cols} * WireDTypeBytes(dtype); }
  uint64_t payload_bytes() const { return rows.size() * row_bytes(); }
};

// A call that has arrived. Sizes of lists and payload are what the peer sent; only that they lie in
// its memory is known.
struct IncomingCall : CallFields {
  uint64_t call_id = 0;
  uint64_t deadline_ms = 0;  // counted from sending
  PayloadView x;
};

// An answer without a complaint. Views hold as long as `memory` does.
struct Answer {
  uint64_t epoch = 0;
  std::span<const uint8_t> row_flags;  // [rows], or empty for none flagged
  PayloadView sums;
  uint32_t queue_us = 0;
  uint64_t compute_ns = 0;
  bool over_shm = false;
  std::shared_ptr<const void> memory;

  uint64_t bytes() const {
    return row_flags.size() + uint64_t{sums.rows} * sums.cols * WireDTypeBytes(sums.dtype);
  }
};

// What goes back beside sums and flags.
struct ReplyHead {
  uint64_t epoch = 0;
  absl::Status status;
  uint32_t queue_us = 0;
  uint64_t compute_ns = 0;
};

// Where the sums of an answer are written; both null when there is no room.
struct ReplySpace {
  std::byte* sums = nullptr;     // [rows, cols] of dtype, all zero, aligned to 16 bytes
  uint8_t* row_flags = nullptr;  // [flags], all zero
};

// The way back of one call.
struct ReplyTo {
  // Called at most once, before `send`. Replies of one connection for which there is space are sent
  // in the order in which space was asked for.
  std::function<ReplySpace(tensor::v1::WireDType dtype, uint32_t rows, uint32_t cols,
                           uint32_t flags)>
      space;
  // Called exactly once. With a status that is not OK, `space` must not have been given.
  std::function<void(const ReplyHead&)> send;
};

// The message of a call; copies the rows once.
experts::v1::ExpertRows ToMessage(const OutgoingCall& call);

// Views of a message's fields. INVALID_ARGUMENT when its payload does not have the size it says.
absl::StatusOr<IncomingCall> IncomingOf(const experts::v1::ExpertRows& message);

// The call whose message `message` is; row pointers are put into `rows`. For whoever has a message
// and wants it sent: tests and tools.
absl::StatusOr<OutgoingCall> OutgoingOf(const experts::v1::ExpertRows& message,
                                        std::vector<const std::byte*>* rows);

// An answer that owns `message`: the status in it, prefixed with `peer`, when it is not OK;
// INTERNAL when its payload does not have the size it says.
absl::StatusOr<Answer> AnswerOf(experts::v1::ExpertSums message, const std::string& peer);

// Writes a reply into `message`, which must live until `send` has been called; `sent` gets it then.
ReplyTo ReplyIntoMessage(uint64_t call_id,
                         std::function<void(experts::v1::ExpertSums message)> sent);

}  // namespace tandem::rpc
