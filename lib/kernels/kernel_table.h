// KernelTable: one set of function pointers per instruction set, chosen once per process. All tables compute the same bits, so the
// choice is about speed only; tests run every table the machine supports.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "lib/kernels/linear.h"

namespace tandem::kernels {

// Rows of x that a float linear kernel widens at a time; no instruction set has a larger register tile.
inline constexpr int kLinearTileRowsMax = 6;

struct KernelTable {
  const char* isa = nullptr;  // "scalar", "avx2", "avx512", "avx512_vnni"

  // `scratch`: [kLinearTileRowsMax, cols rounded up to 16] f32.
  void (*linear_bf16)(const LinearArgs& args, float* scratch) = nullptr;
  void (*linear_f32)(const LinearArgs& args, float* scratch) = nullptr;  // scratch unused
  float (*dot_f32)(const float* a, const float* b, int64_t n) = nullptr;

  void (*exp_shifted)(const float* x, float shift, float* out, int64_t n) = nullptr;
  void (*swiglu)(const float* gate, const float* up, float* out, int64_t n) = nullptr;
  float (*sigmoid)(float x) = nullptr;
};

// Tables this machine can run, slowest ("scalar") first.
std::span<const KernelTable* const> SupportedTables();

// The table named `isa`, or the fastest when `isa` is empty. INVALID_ARGUMENT names the known ones, FAILED_PRECONDITION says that
// this processor lacks it.
absl::StatusOr<const KernelTable*> FindTable(std::string_view isa);

// The process's table: that of the environment variable TANDEM_ISA, or the fastest. A wrong TANDEM_ISA ends the process with one
// sentence and exit code 2 (programs call CheckIsa first to say it their way).
const KernelTable& ActiveTable();

// OK when TANDEM_ISA is unset or names a supported table.
absl::Status CheckIsa();

}  // namespace tandem::kernels
