#include "gpu_worker/backend/cuda/step_buffers.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "lib/base/check.h"
#include "lib/base/status_macros.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr size_t kAlign = 256;

size_t Aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

}  // namespace

// Page tables come last: only the part that a step uses is copied.
StepBuffers::StepBuffers(const StepShape& shape) : shape_(shape) {
  const size_t rows = shape.rows_max;
  const auto take = [&](size_t bytes) {
    const size_t begin = bytes_;
    bytes_ += Aligned(bytes);
    return begin;
  };
  ids_ = take(rows * sizeof(uint32_t));
  cos_ = take(rows * shape.mla.rope / 2 * sizeof(float));
  sin_ = take(rows * shape.mla.rope / 2 * sizeof(float));
  slots_ = take(rows * sizeof(int64_t));
  lengths_ = take(rows * sizeof(int32_t));
  plan_ =
      take(DecodePlanBytes(shape.mla, shape.rows_max, shape.tokens_max(), shape.multiprocessors));
  pages_ = take(rows * shape.pages_per_sequence_max * sizeof(int32_t));
}

size_t StepBuffers::BytesFor(const StepShape& shape) { return StepBuffers(shape).bytes_; }

absl::StatusOr<StepBuffers> StepBuffers::Create(const StepShape& shape) {
  StepBuffers buffers(shape);
  TANDEM_ASSIGN_OR_RETURN(buffers.pinned_, AllocatePinned(buffers.bytes_));
  TANDEM_ASSIGN_OR_RETURN(buffers.device_, AllocateDevice(buffers.bytes_));
  std::memset(buffers.pinned_.data(), 0, buffers.bytes_);
  buffers.copied_ = NewEvent();
  return buffers;
}

void StepBuffers::Upload(const StepBatch& step, int64_t rows_padded, const Rope& rope,
                         Stream stream) {
  TANDEM_CHECK(step.rows() <= rows_padded && rows_padded <= shape_.rows_max);
  if (copying_) Synchronize(copied_.get());
  FillRows(step, rows_padded, rope);
  FillSegments(step, rows_padded);
  const DecodePlan plan =
      PlanDecode(shape_.mla, {Host<int32_t>(lengths_) + decode_.begin, size_t(decode_.rows)},
                 shape_.rows_max, shape_.tokens_max(), shape_.multiprocessors);
  std::memcpy(Host<int32_t>(plan_), plan.words.data(), plan.words.size() * sizeof(int32_t));
  const size_t table_bytes = table_rows_ * page_table_stride() * sizeof(int32_t);
  CopyToDevice(device_.data(), pinned_.data(), pages_ + table_bytes, stream);
  Record(copied_.get(), stream);
  copying_ = true;
}

void StepBuffers::FillRows(const StepBatch& step, int64_t rows_padded, const Rope& rope) {
  const int64_t rows = step.rows(), half = shape_.mla.rope / 2;
  std::copy(step.token_ids.begin(), step.token_ids.end(), Host<uint32_t>(ids_));
  const RopeRows tables = rope.ForPositions(step.positions);
  std::copy(tables.cos.begin(), tables.cos.end(), Host<float>(cos_));
  std::copy(tables.sin.begin(), tables.sin.end(), Host<float>(sin_));
  std::fill(Host<uint32_t>(ids_) + rows, Host<uint32_t>(ids_) + rows_padded, 0u);
  std::fill(Host<float>(cos_) + rows * half, Host<float>(cos_) + rows_padded * half, 1.0f);
  std::fill(Host<float>(sin_) + rows * half, Host<float>(sin_) + rows_padded * half, 0.0f);
  std::fill_n(Host<int64_t>(slots_), rows_padded, int64_t{-1});
  std::fill_n(Host<int32_t>(lengths_), rows_padded, 0);
}

void StepBuffers::FillSegments(const StepBatch& step, int64_t rows_padded) {
  int64_t begin = step.rows(), end = 0;
  table_rows_ = 0;
  bool has_prompts = false;
  for (const Segment& segment : step.segments) {
    has_prompts = has_prompts || segment.kind == RowKind::kPrefill;
    const size_t pages_used =
        (segment.start_position + segment.rows + kPageTokens - 1) / kPageTokens;
    TANDEM_CHECK_LE(pages_used, segment.pages.size());
    TANDEM_CHECK_LE(static_cast<int64_t>(pages_used), page_table_stride());
    for (int64_t i = 0; i < segment.rows; ++i) {
      const int64_t row = segment.row_begin + i, position = segment.start_position + i;
      Host<int64_t>(slots_)[row] =
          segment.pages[position / kPageTokens] * kPageTokens + position % kPageTokens;
      // A prompt's rows share the table of the first.
      if (segment.kind == RowKind::kDecode || i == 0) {
        table_rows_ = row + 1;
        int32_t* const table = Host<int32_t>(pages_) + row * page_table_stride();
        for (size_t p = 0; p < pages_used; ++p) table[p] = static_cast<int32_t>(segment.pages[p]);
      }
      if (segment.kind == RowKind::kDecode) {
        Host<int32_t>(lengths_)[row] = static_cast<int32_t>(position + 1);
      }
    }
    if (segment.kind == RowKind::kDecode) {
      begin = std::min(begin, segment.row_begin);
      end = std::max(end, segment.row_begin + segment.rows);
    }
  }
  if (!has_prompts) {
    decode_ = {0, rows_padded};  // whatever the rows: a graph is for a number of rows
  } else {
    decode_ = end > begin ? DecodeRange{begin, end - begin} : DecodeRange{};
  }
}

}  // namespace tandem::gpu_worker::cuda
