// The loops behind compute_peaks.h, one for each instruction, and which of them this processor can
// run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/limits/compute_peaks.h"

namespace tandem::bench {

struct PeakLoop {
  Arithmetic arithmetic;
  const char* instruction;
  int64_t ops_per_turn;         // of one turn of the loop
  void (*run)(int64_t turns);   // turns >= 1
  bool (*prepare)() = nullptr;  // once in each thread before `run`; false: the kernel refuses
};

// Widest first within a kind.
std::vector<PeakLoop> SupportedPeakLoops();

}  // namespace tandem::bench
