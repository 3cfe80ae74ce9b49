// Experts to measure with: random weights in the form files hold them, and a set of packed experts
// large enough that no cache holds it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/base/huge_memory.h"
#include "lib/base/thread_pool.h"
#include "lib/experts/packed_expert.h"
#include "lib/tensor/dtype.h"

namespace tandem::bench {

struct ExpertShape {
  int64_t hidden = 0;
  int64_t inter = 0;
  DType gate_up = DType::kBF16;
  DType down = DType::kBF16;

  double flop_per_row() const { return 6.0 * static_cast<double>(hidden * inter); }
};

// The types a GGUF file has for experts of `type`: rows that are no multiple of 256 get a format
// with smaller blocks, as llama.cpp's quantizer gives them. "fp8" is f8_e4m3 with one scale for
// 128 x 128 values. INVALID_ARGUMENT for unknown types and sizes that fit no block.
absl::StatusOr<ExpertShape> ExpertShapeOf(const std::string& type, int64_t hidden, int64_t inter);

// One expert as files hold it: the rows of gate, up [inter, hidden] and down [hidden, inter].
struct StoredExpert {
  std::vector<std::byte> gate, up, down;
  // fp8: one scale for each 128 columns of a row, [rows][ceil(cols / 128)]; else empty.
  std::vector<float> gate_scales, up_scales, down_scales;

  int64_t bytes() const {
    return static_cast<int64_t>(gate.size() + up.size() + down.size()) +
           static_cast<int64_t>(gate_scales.size() + up_scales.size() + down_scales.size()) * 4;
  }
};

// Values of deviation 1 / sqrt(columns), so that activations of size one stay of size one.
StoredExpert MakeStoredExpert(const ExpertShape& shape, uint64_t seed);

// Packed experts one after the other in memory on huge pages.
class ExpertSet {
 public:
  // Packs `distinct` on the pool's threads, then fills up with copies to at least `bytes_min` and a
  // multiple of `group` experts. RESOURCE_EXHAUSTED when there is no memory for that.
  static absl::StatusOr<ExpertSet> Create(const ExpertShape& shape,
                                          std::span<const StoredExpert> distinct, int64_t bytes_min,
                                          int group, base::ThreadPool* pool);

  int size() const { return static_cast<int>(experts_.size()); }
  const PackedExpert& expert(int index) const { return experts_[index]; }
  int64_t expert_bytes() const { return experts_.front().bytes(); }
  // The bytes of experts [first, first + count).
  std::span<const std::byte> Bytes(int first, int count) const;
  const base::HugeMemory& memory() const { return memory_; }

 private:
  base::HugeMemory memory_;
  std::vector<PackedExpert> experts_;
};

}  // namespace tandem::bench
