// How many operations a second the machine's multiply-add instructions give, on one or more
// threads: the limit that products of many rows are held against. Nothing is read from memory.
#pragma once

#include <string>
#include <vector>

namespace tandem::bench {

// What an instruction multiplies; each is the ceiling of some weight formats.
enum class Arithmetic { kFma, kInt8, kBf16, kAmxInt8, kAmxBf16 };

struct ComputePeak {
  Arithmetic arithmetic = Arithmetic::kFma;
  std::string instruction;  // "vpdpbusd zmm"
  double gops = 0;          // 1e9 operations a second of all threads; a multiply-add counts as two
};

// "fma", "int8", "bf16", "amx_int8", "amx_bf16": part of column names.
const char* NameOf(Arithmetic arithmetic);

// The widest instruction of each kind this processor has, run on `threads` threads at once; kinds
// it lacks are left out. Best of several bursts of a few milliseconds, so that a short disturbance
// does no harm. Takes about 50 ms for each kind. Empty on processors other than x86-64 (the
// project's kernels are portable there and no peak is known).
std::vector<ComputePeak> MeasureComputePeaks(int threads);

// Of `peaks`, the one of that kind, or 0.
double PeakOf(const std::vector<ComputePeak>& peaks, Arithmetic arithmetic);

}  // namespace tandem::bench
