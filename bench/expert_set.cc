#include "bench/expert_set.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"
#include "lib/kernels/packed.h"
#include "lib/kernels/weights.h"
#include "lib/model/synth_blocks.h"
#include "lib/model/synth_types.h"

namespace tandem::bench {
namespace {

constexpr int64_t kFp8Block = 128;  // of published DeepSeek checkpoints

int64_t ScaleCols(DType type) { return type == DType::kF8E4M3 ? kFp8Block : 0; }

kernels::PackedLayout LayoutFor(DType type, int64_t rows, int64_t cols) {
  return kernels::LayoutOf(type, rows, cols, ScaleCols(type));
}

std::vector<std::byte> MakeRows(DType type, int64_t rows, int64_t cols, uint64_t seed) {
  const RandomRows maker(type, cols, 1.0 / std::sqrt(static_cast<double>(cols)));
  std::vector<std::byte> bytes(rows * maker.row_bytes());
  for (int64_t r = 0; r < rows; ++r)
    maker.Fill(MixSeed(seed, r), bytes.data() + r * maker.row_bytes());
  return bytes;
}

std::vector<float> MakeScales(DType type, int64_t rows, int64_t cols) {
  if (ScaleCols(type) == 0) return {};
  const int64_t per_row = (cols + kFp8Block - 1) / kFp8Block;
  return std::vector<float>(rows * per_row,
                            Fp8ScaleInv(1.0 / std::sqrt(static_cast<double>(cols))));
}

void PackRows(const kernels::PackedLayout& layout, const std::vector<std::byte>& rows,
              const std::vector<float>& scales, base::ThreadPool* pool, std::byte* out) {
  const int64_t row_bytes = static_cast<int64_t>(rows.size()) / layout.rows;
  const int64_t row_scales = static_cast<int64_t>(scales.size()) / layout.rows;
  pool->ParallelFor(layout.panels(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * kernels::kPanelRows;
      const int64_t count = std::min<int64_t>(kernels::kPanelRows, layout.rows - first);
      const float* scale = scales.empty() ? nullptr : scales.data() + first * row_scales;
      kernels::PackPanel(layout, rows.data() + first * row_bytes, count, scale,
                         out + p * layout.panel_bytes);
    }
  });
}

// Views of one expert whose three matrices lie one after the other at `data`; null for the geometry
// alone.
PackedExpert ExpertAt(const ExpertShape& shape, const std::byte* data) {
  PackedExpert expert;
  expert.gate = {LayoutFor(shape.gate_up, shape.inter, shape.hidden), data};
  const int64_t bytes = expert.gate.layout.bytes();
  expert.up = {expert.gate.layout, data == nullptr ? nullptr : data + bytes};
  expert.down = {LayoutFor(shape.down, shape.hidden, shape.inter),
                 data == nullptr ? nullptr : data + 2 * bytes};
  return expert;
}

}  // namespace

absl::StatusOr<ExpertShape> ExpertShapeOf(const std::string& type, int64_t hidden, int64_t inter) {
  const std::string name = type == "fp8" ? NameOf(DType::kF8E4M3) : type;
  TANDEM_ASSIGN_OR_RETURN(const SynthFormat format, ParseSynthFormat(name, /*pure=*/true));
  ExpertShape shape{hidden, inter};
  shape.gate_up = GgufTypeOf(format, TensorRole::kExpertGate, 0, 1, hidden);
  shape.down = GgufTypeOf(format, TensorRole::kExpertDown, 0, 1, inter);
  TANDEM_RETURN_IF_ERROR(kernels::CheckWeightType(shape.gate_up, hidden));
  TANDEM_RETURN_IF_ERROR(kernels::CheckWeightType(shape.down, inter));
  return shape;
}

StoredExpert MakeStoredExpert(const ExpertShape& shape, uint64_t seed) {
  StoredExpert expert;
  expert.gate = MakeRows(shape.gate_up, shape.inter, shape.hidden, MixSeed(seed, 1));
  expert.up = MakeRows(shape.gate_up, shape.inter, shape.hidden, MixSeed(seed, 2));
  expert.down = MakeRows(shape.down, shape.hidden, shape.inter, MixSeed(seed, 3));
  expert.gate_scales = MakeScales(shape.gate_up, shape.inter, shape.hidden);
  expert.up_scales = expert.gate_scales;
  expert.down_scales = MakeScales(shape.down, shape.hidden, shape.inter);
  return expert;
}

absl::StatusOr<ExpertSet> ExpertSet::Create(const ExpertShape& shape,
                                            std::span<const StoredExpert> distinct,
                                            int64_t bytes_min, int group, base::ThreadPool* pool) {
  TANDEM_CHECK(!distinct.empty());
  const int64_t each = ExpertAt(shape, nullptr).bytes();
  int64_t count = std::max<int64_t>((bytes_min + each - 1) / each, distinct.size());
  count = (count + group - 1) / group * group;
  ExpertSet set;
  TANDEM_ASSIGN_OR_RETURN(set.memory_, base::HugeMemory::Allocate(count * each));
  for (int64_t i = 0; i < count; ++i) {
    std::byte* data = set.memory_.data() + i * each;
    set.experts_.push_back(ExpertAt(shape, data));
    if (i >= static_cast<int64_t>(distinct.size())) {
      std::memcpy(data, set.memory_.data() + i % distinct.size() * each, each);
      continue;
    }
    const int64_t gate_bytes = set.experts_.back().gate.layout.bytes();
    const PackedExpert& packed = set.experts_.back();
    const StoredExpert& stored = distinct[i];
    PackRows(packed.gate.layout, stored.gate, stored.gate_scales, pool, data);
    PackRows(packed.up.layout, stored.up, stored.up_scales, pool, data + gate_bytes);
    PackRows(packed.down.layout, stored.down, stored.down_scales, pool, data + 2 * gate_bytes);
  }
  return set;
}

std::span<const std::byte> ExpertSet::Bytes(int first, int count) const {
  return {memory_.data() + first * expert_bytes(), static_cast<size_t>(count * expert_bytes())};
}

}  // namespace tandem::bench
