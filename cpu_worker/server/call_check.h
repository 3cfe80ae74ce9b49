// What a peer sent, checked: every size, id, number and precondition of a call before anything is
// computed from it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "lib/experts/expert_ffn.h"
#include "lib/experts/expert_store.h"
#include "lib/model/config.h"
#include "lib/rpc/expert_call.h"

namespace tandem::cpu_worker {

// What calls are checked against.
struct WorkerFacts {
  const ModelConfig* config = nullptr;
  std::string model_digest;
};

// A call found good. `x` lies where the call's payload does.
struct CheckedCall {
  uint32_t layer = 0;
  ActivationForm activation = ActivationForm::kNative;
  ReplyForm reply = ReplyForm::kGridSum;
  DType x_dtype = DType::kBF16;
  int64_t rows = 0;
  int64_t pairs = 0;
  const std::byte* x = nullptr;  // [rows, hidden] x_dtype
  // The set that holds every expert of the call; kept so that a new placement cannot pull it away.
  std::shared_ptr<const HeldExperts> held;
};

// Errors, each one sentence with expected and found:
//
// FAILED_PRECONDITION: another model, or an expert this worker does not hold (names expert, layer
// and both epochs).
//
// INVALID_ARGUMENT: anything that no retry can make right.
//
// RESOURCE_EXHAUSTED: an answer too large for one message.
//
// Epochs. A call made under another epoch is computed all the same when every expert of it is held:
// what an expert computes depends on the model (its digest was compared) and not on the table. The
// answer carries this worker's epoch, so a caller learns of a newer table by the way.
absl::StatusOr<CheckedCall> CheckCall(const rpc::IncomingCall& call, const WorkerFacts& facts,
                                      std::shared_ptr<const HeldExperts> held, uint64_t epoch);

}  // namespace tandem::cpu_worker
