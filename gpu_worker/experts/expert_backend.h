// ExpertBackend: a device that holds routed experts and computes them with the bits of
// lib/experts/expert_ffn.h. It is what LocalExperts uses instead of the processor where there is a
// GPU; experts are loaded and proved in main memory first and then given to it.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "lib/experts/expert_ffn.h"

namespace tandem::gpu_worker {

class ExpertBackend {
 public:
  virtual ~ExpertBackend() = default;

  // Makes room for experts of `bytes` bytes in all (PackedExpert::bytes). Called once, before Hold.
  // RESOURCE_EXHAUSTED with what is needed and what is free.
  virtual absl::Status Reserve(int64_t bytes, int64_t experts) = 0;
  // Copies an expert; the original may be gone afterwards. UNIMPLEMENTED for weights of a type it
  // cannot compute.
  virtual absl::Status Hold(uint32_t layer, uint32_t expert, const PackedExpert& packed) = 0;

  // Of one batch.
  virtual int64_t rows_max() const = 0;
  // As ExpertFfn::Run with the experts held of `layer`, from any one thread at a time.
  virtual void Run(const FfnBatch& batch, uint32_t layer) = 0;
};

}  // namespace tandem::gpu_worker
