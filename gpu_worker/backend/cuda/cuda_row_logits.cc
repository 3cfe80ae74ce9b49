#include "gpu_worker/backend/cuda/cuda_row_logits.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "gpu_worker/backend/cuda/kernels/rows/rows.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"

namespace tandem::gpu_worker::cuda {
namespace {

static_assert(kBestLogitsMax == kTopLogitsMax && kNoToken == kNoRow);

// Questions of one launch, and whole rows of one copy: 5 MB of pinned memory over the largest
// vocabulary.
constexpr int64_t kQuestionsMax = 4096;
constexpr int64_t kWholeRowsMax = 8;

constexpr size_t kQuestionBytes =
    kQuestionsMax * std::max(sizeof(WeightSumAsk), sizeof(LogitPlace));

// values and ids [rows, k], not_finite [rows], one after the other.
size_t BestBytes(int64_t rows, int64_t k) { return rows * (2 * k + 1) * sizeof(uint32_t); }

size_t AnswerBytes(const RowLogitsShape& shape) {
  return std::max(kQuestionsMax * sizeof(uint64_t), BestBytes(shape.rows_max, kBestLogitsMax));
}

size_t WorkspaceBytes(const RowLogitsShape& shape) {
  return TopLogitsWorkspaceBytes(shape.rows_max, shape.own.size(), kBestLogitsMax);
}

}  // namespace

CudaRowLogits::Places CudaRowLogits::TakeFrom(DeviceArena& arena, const RowLogitsShape& shape) {
  Places places;
  places.questions = arena.Take(kQuestionBytes);
  places.answers = arena.Take(AnswerBytes(shape));
  places.workspace = arena.Take(WorkspaceBytes(shape));
  return places;
}

size_t CudaRowLogits::DeviceBytesFor(const RowLogitsShape& shape) {
  DeviceArena count;
  TakeFrom(count, shape);
  return count.used();
}

absl::StatusOr<std::unique_ptr<CudaRowLogits>> CudaRowLogits::Create(const RowLogitsShape& shape,
                                                                     const float* logits,
                                                                     Stream stream) {
  std::unique_ptr<CudaRowLogits> self(new CudaRowLogits(shape, logits, stream));
  const size_t row_bytes = shape.own.size() * sizeof(float);
  DeviceArena count;
  TakeFrom(count, shape);
  TANDEM_ASSIGN_OR_RETURN(DeviceArena arena, DeviceArena::Like(count));
  self->places_ = TakeFrom(arena, shape);
  self->device_ = std::move(arena).Release();
  TANDEM_ASSIGN_OR_RETURN(self->sent_, AllocatePinned(kQuestionBytes));
  TANDEM_ASSIGN_OR_RETURN(self->received_,
                          AllocatePinned(std::max(AnswerBytes(shape), kWholeRowsMax * row_bytes)));
  return self;
}

void CudaRowLogits::SetRows(int64_t rows) {
  TANDEM_CHECK_LE(rows, shape_.rows_max);
  rows_ = rows;
}

void CudaRowLogits::Best(int64_t k, BestLogits* best) {
  TANDEM_CHECK(k >= 1 && k <= std::min(kBestLogitsMax, shape_.vocab));
  best->k = k;
  best->tokens.assign(rows_ * k, kNoTokenLogit);
  best->not_finite.assign(rows_, kNoToken);
  const int64_t found = std::min(k, shape_.own.size());
  if (rows_ == 0 || found == 0) return;
  TopLogitsArgs args = {.logits = logits_, .rows = rows_, .vocab = shape_.own.size(), .k = found};
  args.values = static_cast<float*>(places_.answers);
  args.ids = reinterpret_cast<uint32_t*>(args.values + rows_ * found);
  args.not_finite = args.ids + rows_ * found;
  args.workspace = places_.workspace;
  args.workspace_bytes = WorkspaceBytes(shape_);
  TopLogits(args, stream_);
  CopyToHost(received_.data(), args.values, BestBytes(rows_, found), stream_);
  Synchronize(stream_);
  const float* const values = received_.as<float>();
  const uint32_t* const ids = received_.as<uint32_t>() + rows_ * found;
  const uint32_t* const not_finite = ids + rows_ * found;
  const uint32_t begin = static_cast<uint32_t>(shape_.own.begin);
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t i = 0; i < found; ++i) {
      best->tokens[r * k + i] = {begin + ids[r * found + i], values[r * found + i]};
    }
    if (not_finite[r] != kNoRow) best->not_finite[r] = begin + not_finite[r];
  }
}

void CudaRowLogits::WeightSums(std::span<const WeightSumAsk> asks, std::vector<uint64_t>* sums) {
  sums->resize(asks.size());
  for (size_t begin = 0; begin < asks.size(); begin += kQuestionsMax) {
    SumsOf(asks.subspan(begin, std::min<size_t>(kQuestionsMax, asks.size() - begin)),
           sums->data() + begin);
  }
}

void CudaRowLogits::SumsOf(std::span<const WeightSumAsk> asks, uint64_t* sums) {
  auto* const questions = static_cast<WeightSumAsk*>(places_.questions);
  auto* const answers = static_cast<uint64_t*>(places_.answers);
  std::memcpy(sent_.data(), asks.data(), asks.size_bytes());
  CopyToDevice(questions, sent_.data(), asks.size_bytes(), stream_);
  cuda::WeightSums(logits_, shape_.own.size(), questions, static_cast<int64_t>(asks.size()),
                   answers, stream_);
  CopyToHost(received_.data(), answers, asks.size() * sizeof(uint64_t), stream_);
  Synchronize(stream_);
  std::memcpy(sums, received_.data(), asks.size() * sizeof(uint64_t));
}

void CudaRowLogits::At(std::span<const LogitPlace> places, std::vector<float>* values) {
  values->resize(places.size());
  std::vector<LogitPlace> own;
  std::vector<size_t> own_places;
  for (size_t i = 0; i < places.size(); ++i) {
    TANDEM_CHECK_LT(places[i].id, shape_.vocab);
    if (places[i].id < shape_.own.begin || places[i].id >= shape_.own.end) continue;
    own.push_back({places[i].row, places[i].id - static_cast<uint32_t>(shape_.own.begin)});
    own_places.push_back(i);
  }
  std::vector<float> found(own.size());
  for (size_t begin = 0; begin < own.size(); begin += kQuestionsMax) {
    const size_t count = std::min<size_t>(kQuestionsMax, own.size() - begin);
    ValuesAt(std::span(own).subspan(begin, count), found.data() + begin);
  }
  for (size_t i = 0; i < own.size(); ++i) (*values)[own_places[i]] = found[i];
}

void CudaRowLogits::ValuesAt(std::span<const LogitPlace> places, float* values) {
  auto* const questions = static_cast<LogitPlace*>(places_.questions);
  auto* const answers = static_cast<float*>(places_.answers);
  std::memcpy(sent_.data(), places.data(), places.size_bytes());
  CopyToDevice(questions, sent_.data(), places.size_bytes(), stream_);
  PickLogits(logits_, shape_.own.size(), questions, static_cast<int64_t>(places.size()), answers,
             stream_);
  CopyToHost(received_.data(), answers, places.size() * sizeof(float), stream_);
  Synchronize(stream_);
  std::memcpy(values, received_.data(), places.size() * sizeof(float));
}

void CudaRowLogits::Rows(std::span<const int64_t> rows, std::vector<float>* logits) {
  logits->resize(rows.size() * shape_.vocab);
  const int64_t cols = shape_.own.size();
  if (cols == 0) return;
  for (size_t begin = 0; begin < rows.size(); begin += kWholeRowsMax) {
    const size_t count = std::min<size_t>(kWholeRowsMax, rows.size() - begin);
    float* const received = received_.as<float>();
    for (size_t i = 0; i < count; ++i) {
      CopyToHost(received + i * cols, logits_ + rows[begin + i] * cols, cols * sizeof(float),
                 stream_);
    }
    Synchronize(stream_);
    for (size_t i = 0; i < count; ++i) {
      std::copy_n(received + i * cols, cols,
                  logits->begin() + (begin + i) * shape_.vocab + shape_.own.begin);
    }
  }
}

}  // namespace tandem::gpu_worker::cuda
