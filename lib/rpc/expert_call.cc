#include "lib/rpc/expert_call.h"

#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"
#include "lib/rpc/status_map.h"

namespace tandem::rpc {

using experts::v1::ExpertRows;
using experts::v1::ExpertSums;

namespace {

// Protobuf's limit for one message.
constexpr uint64_t kMessagePayloadBytesMax = (uint64_t{1} << 31) - (1 << 20);

template <typename Repeated, typename Span>
void Append(const Span& from, Repeated* to) {
  to->Add(from.begin(), from.end());
}

void SetFields(const ExpertRows& message, CallFields* call) {
  call->epoch = message.epoch();
  call->model_digest = message.model_digest();
  call->layer = message.layer();
  call->reply_form = message.reply_form();
  call->activation_form = message.activation_form();
  const auto size = [](const auto& list) { return static_cast<size_t>(list.size()); };
  call->experts_per_row = {message.experts_per_row().data(), size(message.experts_per_row())};
  call->expert_ids = {message.expert_ids().data(), size(message.expert_ids())};
  call->expert_weights = {message.expert_weights().data(), size(message.expert_weights())};
  call->grid_exponents = {message.grid_exponents().data(), size(message.grid_exponents())};
}

}  // namespace

ExpertRows ToMessage(const OutgoingCall& call) {
  TANDEM_CHECK_GT(call.row_bytes(), 0u);
  TANDEM_CHECK_LT(call.rows.size(), kMessagePayloadBytesMax / call.row_bytes());
  ExpertRows message;
  message.set_epoch(call.epoch);
  message.set_model_digest(call.model_digest.data(), call.model_digest.size());
  message.set_layer(call.layer);
  message.set_reply_form(call.reply_form);
  message.set_activation_form(call.activation_form);
  Append(call.experts_per_row, message.mutable_experts_per_row());
  Append(call.expert_ids, message.mutable_expert_ids());
  Append(call.expert_weights, message.mutable_expert_weights());
  Append(call.grid_exponents, message.mutable_grid_exponents());
  tensor::v1::TensorPayload* x = message.mutable_x();
  x->set_dtype(call.dtype);
  x->set_rows(static_cast<uint32_t>(call.rows.size()));
  x->set_cols(call.cols);
  std::string* data = x->mutable_data();
  data->reserve(call.payload_bytes());
  for (const std::byte* row : call.rows) {
    data->append(reinterpret_cast<const char*>(row), call.row_bytes());
  }
  return message;
}

absl::StatusOr<IncomingCall> IncomingOf(const ExpertRows& message) {
  IncomingCall call;
  TANDEM_ASSIGN_OR_RETURN(call.x, ReadPayload(message.x()));
  SetFields(message, &call);
  call.call_id = message.call_id();
  call.deadline_ms = message.deadline_ms();
  return call;
}

absl::StatusOr<OutgoingCall> OutgoingOf(const ExpertRows& message,
                                        std::vector<const std::byte*>* rows) {
  TANDEM_ASSIGN_OR_RETURN(const PayloadView x, ReadPayload(message.x()));
  OutgoingCall call;
  SetFields(message, &call);
  call.dtype = x.dtype;
  call.cols = x.cols;
  rows->clear();
  for (uint32_t r = 0; r < x.rows; ++r) rows->push_back(x.data + r * call.row_bytes());
  call.rows = *rows;
  return call;
}

absl::StatusOr<Answer> AnswerOf(ExpertSums message, const std::string& peer) {
  const absl::Status status = StatusFromWire(message.status_code(), message.status_message());
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat(peer, ": ", std::string(status.message())));
  }
  auto owned = std::make_shared<ExpertSums>(std::move(message));
  Answer answer;
  // An answer may be without sums (an echo of nothing); whoever adds checks what it needs.
  if (owned->has_sums()) {
    const absl::StatusOr<PayloadView> sums = ReadPayload(owned->sums());
    if (!sums.ok()) {
      return absl::InternalError(
          absl::StrCat("expert worker ", peer, ": ", std::string(sums.status().message())));
    }
    answer.sums = *sums;
  }
  answer.epoch = owned->epoch();
  const std::string& flags = owned->row_flags();
  answer.row_flags = {reinterpret_cast<const uint8_t*>(flags.data()), flags.size()};
  answer.queue_us = owned->queue_us();
  answer.compute_ns = owned->compute_ns();
  answer.memory = std::move(owned);
  return answer;
}

ReplyTo ReplyIntoMessage(uint64_t call_id, std::function<void(ExpertSums message)> sent) {
  auto message = std::make_shared<ExpertSums>();
  message->set_call_id(call_id);
  ReplyTo reply;
  reply.space = [message](tensor::v1::WireDType dtype, uint32_t rows, uint32_t cols,
                          uint32_t flags) -> ReplySpace {
    const uint64_t bytes = uint64_t{rows} * cols * WireDTypeBytes(dtype);
    if (bytes >= kMessagePayloadBytesMax) return {};
    tensor::v1::TensorPayload* sums = message->mutable_sums();
    sums->set_dtype(dtype);
    sums->set_rows(rows);
    sums->set_cols(cols);
    // Strings of this size lie on the heap, aligned for any type.
    sums->mutable_data()->resize(bytes);
    message->mutable_row_flags()->resize(flags);
    return {reinterpret_cast<std::byte*>(sums->mutable_data()->data()),
            reinterpret_cast<uint8_t*>(message->mutable_row_flags()->data())};
  };
  reply.send = [message, sent = std::move(sent)](const ReplyHead& head) {
    message->set_epoch(head.epoch);
    message->set_status_code(static_cast<uint32_t>(head.status.code()));
    message->set_status_message(std::string(head.status.message()));
    message->set_queue_us(head.queue_us);
    message->set_compute_us(static_cast<uint32_t>(head.compute_ns / 1000));
    message->set_compute_ns(head.compute_ns);
    sent(std::move(*message));
  };
  return reply;
}

}  // namespace tandem::rpc
