#include "lib/rpc/shm_frame.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"
#include "lib/rpc/shm_ring.h"
#include "lib/rpc/status_map.h"

namespace tandem::rpc {
namespace {

struct CallHead {
  uint64_t call_id;
  uint64_t epoch;
  uint64_t deadline_ms;
  int64_t sent_ns;
  uint32_t layer;
  uint32_t reply_form;
  uint32_t activation_form;
  uint32_t dtype;
  uint32_t rows;
  uint32_t cols;
  uint32_t experts_per_row;  // lengths of the lists behind the head, in this order
  uint32_t expert_ids;
  uint32_t expert_weights;
  uint32_t grid_exponents;
  uint32_t digest_bytes;
  uint32_t reserved;
};
static_assert(sizeof(CallHead) == 80);

struct AnswerHead {
  uint64_t call_id;
  uint64_t epoch;
  uint64_t compute_ns;
  uint32_t status_code;
  uint32_t message_bytes;  // behind the head
  uint32_t flags;          // behind the message
  uint32_t dtype;
  uint32_t rows;
  uint32_t cols;
  uint32_t queue_us;
  uint32_t has_sums;
};
static_assert(sizeof(AnswerHead) == 56);

uint64_t AlignUp(uint64_t bytes) { return (bytes + kFrameAlign - 1) / kFrameAlign * kFrameAlign; }

// Bytes of head and lists; the payload begins at the next cache line. Each count has 32 bits, so
// the sum is far below 2^64.
uint64_t ListBytes(const CallHead& head) {
  return sizeof(CallHead) + head.digest_bytes +
         4 * (uint64_t{head.experts_per_row} + head.expert_ids + head.expert_weights +
              head.grid_exponents);
}

CallHead HeadOf(const OutgoingCall& call) {
  const auto count = [](size_t size) {
    TANDEM_CHECK_LE(size, size_t{UINT32_MAX});
    return static_cast<uint32_t>(size);
  };
  CallHead head = {};
  head.epoch = call.epoch;
  head.layer = call.layer;
  head.reply_form = static_cast<uint32_t>(call.reply_form);
  head.activation_form = static_cast<uint32_t>(call.activation_form);
  head.dtype = static_cast<uint32_t>(call.dtype);
  head.rows = count(call.rows.size());
  head.cols = call.cols;
  head.experts_per_row = count(call.experts_per_row.size());
  head.expert_ids = count(call.expert_ids.size());
  head.expert_weights = count(call.expert_weights.size());
  head.grid_exponents = count(call.grid_exponents.size());
  head.digest_bytes = count(call.model_digest.size());
  return head;
}

template <typename T>
std::byte* PutList(std::span<const T> list, std::byte* to) {
  if (!list.empty()) std::memcpy(to, list.data(), list.size_bytes());
  return to + list.size_bytes();
}

template <typename T>
const std::byte* GetList(const std::byte* from, uint32_t count, std::vector<T>* list) {
  list->resize(count);
  if (count > 0) std::memcpy(list->data(), from, count * sizeof(T));
  return from + count * sizeof(T);
}

absl::Status BadFrame(const char* what, uint64_t expected, uint64_t found) {
  return absl::InvalidArgumentError(
      absl::StrCat("shared memory: ", what, ": expected ", expected, ", found ", found));
}

// [rows, cols] of dtype at `offset_bytes` fill the frame to its end.
absl::Status CheckPayload(uint32_t dtype, uint32_t rows, uint32_t cols, uint64_t offset_bytes,
                          uint64_t frame_bytes) {
  const uint64_t value_bytes = WireDTypeBytes(static_cast<tensor::v1::WireDType>(dtype));
  if (value_bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("shared memory: payload has unknown dtype ", dtype));
  }
  if (offset_bytes > frame_bytes) return BadFrame("bytes of a frame", offset_bytes, frame_bytes);
  // Two 32-bit factors fit 64 bits; dividing the bytes keeps the third from overflowing.
  const uint64_t values = uint64_t{rows} * cols;
  const uint64_t found_bytes = frame_bytes - offset_bytes;
  if (found_bytes % value_bytes != 0 || values != found_bytes / value_bytes) {
    return BadFrame("values of a payload", values, found_bytes / value_bytes);
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t CallFrameBytes(const OutgoingCall& call) {
  return AlignUp(ListBytes(HeadOf(call))) + call.payload_bytes();
}

uint64_t AnswerFrameBytesOf(const OutgoingCall& call) {
  const bool grid = call.reply_form == experts::v1::REPLY_FORM_GRID_SUM;
  const size_t rows = grid ? call.rows.size() : call.expert_ids.size();
  return LayoutOfAnswer(tensor::v1::WIRE_DTYPE_I32, static_cast<uint32_t>(rows), call.cols,
                        static_cast<uint32_t>(call.rows.size()))
      .frame_bytes;
}

void WriteCall(const OutgoingCall& call, uint64_t call_id, uint64_t deadline_ms, int64_t sent_ns,
               std::byte* frame) {
  CallHead head = HeadOf(call);
  head.call_id = call_id;
  head.deadline_ms = deadline_ms;
  head.sent_ns = sent_ns;
  std::memcpy(frame, &head, sizeof head);
  std::byte* to = frame + sizeof head;
  to = PutList(call.experts_per_row, to);
  to = PutList(call.expert_ids, to);
  to = PutList(call.expert_weights, to);
  to = PutList(call.grid_exponents, to);
  PutList(std::span<const char>(call.model_digest.data(), call.model_digest.size()), to);
  std::byte* row_to = frame + AlignUp(ListBytes(head));
  for (const std::byte* row : call.rows) {
    std::memcpy(row_to, row, call.row_bytes());
    row_to += call.row_bytes();
  }
}

absl::Status ReadCall(std::span<const std::byte> frame, ReceivedCall* received) {
  CallHead head;
  if (frame.size() < sizeof head) {
    return BadFrame("bytes of a call, at least", sizeof head, frame.size());
  }
  std::memcpy(&head, frame.data(), sizeof head);
  const uint64_t payload_offset = AlignUp(ListBytes(head));
  if (absl::Status status =
          CheckPayload(head.dtype, head.rows, head.cols, payload_offset, frame.size());
      !status.ok()) {
    return status;
  }
  const std::byte* from = frame.data() + sizeof head;
  from = GetList(from, head.experts_per_row, &received->experts_per_row);
  from = GetList(from, head.expert_ids, &received->expert_ids);
  from = GetList(from, head.expert_weights, &received->expert_weights);
  from = GetList(from, head.grid_exponents, &received->grid_exponents);
  received->model_digest.assign(reinterpret_cast<const char*>(from), head.digest_bytes);
  received->sent_ns = head.sent_ns;
  IncomingCall& call = received->call;
  call.call_id = head.call_id;
  call.epoch = head.epoch;
  call.deadline_ms = head.deadline_ms;
  call.layer = head.layer;
  call.reply_form = static_cast<experts::v1::ReplyForm>(head.reply_form);
  call.activation_form = static_cast<experts::v1::ActivationForm>(head.activation_form);
  call.model_digest = received->model_digest;
  call.experts_per_row = received->experts_per_row;
  call.expert_ids = received->expert_ids;
  call.expert_weights = received->expert_weights;
  call.grid_exponents = received->grid_exponents;
  call.x = {static_cast<tensor::v1::WireDType>(head.dtype), head.rows, head.cols,
            frame.data() + payload_offset};
  return absl::OkStatus();
}

AnswerLayout LayoutOfAnswer(tensor::v1::WireDType dtype, uint32_t rows, uint32_t cols,
                            uint32_t flags) {
  AnswerLayout layout{.dtype = dtype, .rows = rows, .cols = cols, .flags = flags};
  layout.flags_offset_bytes = sizeof(AnswerHead);
  layout.sums_offset_bytes = AlignUp(layout.flags_offset_bytes + flags);
  layout.frame_bytes =
      layout.sums_offset_bytes + uint64_t{rows} * cols * uint64_t{WireDTypeBytes(dtype)};
  return layout;
}

void WriteAnswerHead(const AnswerLayout& layout, const ReplyHead& head, uint64_t call_id,
                     std::byte* frame) {
  AnswerHead wire = {};
  wire.call_id = call_id;
  wire.epoch = head.epoch;
  wire.flags = layout.flags;
  wire.dtype = static_cast<uint32_t>(layout.dtype);
  wire.rows = layout.rows;
  wire.cols = layout.cols;
  wire.queue_us = head.queue_us;
  wire.compute_ns = head.compute_ns;
  wire.has_sums = 1;
  std::memcpy(frame, &wire, sizeof wire);
}

uint64_t RefusalFrameBytes(const ReplyHead& head) {
  return sizeof(AnswerHead) + std::min(head.status.message().size(), kStatusBytesMax);
}

void WriteRefusal(const ReplyHead& head, uint64_t call_id, std::byte* frame) {
  AnswerHead wire = {};
  wire.call_id = call_id;
  wire.epoch = head.epoch;
  wire.status_code = static_cast<uint32_t>(head.status.code());
  wire.message_bytes =
      static_cast<uint32_t>(std::min(head.status.message().size(), kStatusBytesMax));
  wire.queue_us = head.queue_us;
  wire.compute_ns = head.compute_ns;
  std::memcpy(frame, &wire, sizeof wire);
  std::memcpy(frame + sizeof wire, head.status.message().data(), wire.message_bytes);
}

absl::Status ReadAnswer(std::span<const std::byte> frame, ReceivedAnswer* received) {
  AnswerHead head;
  if (frame.size() < sizeof head) {
    return BadFrame("bytes of an answer, at least", sizeof head, frame.size());
  }
  std::memcpy(&head, frame.data(), sizeof head);
  if (head.message_bytes > kStatusBytesMax) {
    return BadFrame("bytes of a status message, at most", kStatusBytesMax, head.message_bytes);
  }
  const uint64_t flags_offset = sizeof head + uint64_t{head.message_bytes};
  if (flags_offset + head.flags > frame.size()) {
    return BadFrame("bytes of an answer, at least", flags_offset + head.flags, frame.size());
  }
  received->call_id = head.call_id;
  received->status = StatusFromWire(
      head.status_code,
      std::string(reinterpret_cast<const char*>(frame.data() + sizeof head), head.message_bytes));
  Answer& answer = received->answer;
  answer = {};
  answer.epoch = head.epoch;
  answer.queue_us = head.queue_us;
  answer.compute_ns = head.compute_ns;
  answer.over_shm = true;
  answer.row_flags = {reinterpret_cast<const uint8_t*>(frame.data() + flags_offset), head.flags};
  if (head.has_sums == 0) return absl::OkStatus();
  const uint64_t sums_offset = AlignUp(flags_offset + head.flags);
  if (absl::Status status =
          CheckPayload(head.dtype, head.rows, head.cols, sums_offset, frame.size());
      !status.ok()) {
    return status;
  }
  answer.sums = {static_cast<tensor::v1::WireDType>(head.dtype), head.rows, head.cols,
                 frame.data() + sums_offset};
  return absl::OkStatus();
}

}  // namespace tandem::rpc
