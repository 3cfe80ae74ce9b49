// FrameSpan: one call to an expert worker on the time line, for traces.
#pragma once

#include <cstdint>
#include <string>

namespace tandem::gpu_worker {

struct FrameSpan {
  std::string worker;  // address
  int slot = 0;        // of the step
  int64_t layer = 0;
  int64_t rows = 0;
  int64_t terms = 0;        // (row, expert) pairs
  int64_t begin_ns = 0;     // sent; CLOCK_MONOTONIC
  int64_t end_ns = 0;       // answered, failed or given up
  uint64_t compute_ns = 0;  // what the worker says of itself; 0 when it has not answered
  uint64_t queue_us = 0;
  bool answered = false;
};

}  // namespace tandem::gpu_worker
