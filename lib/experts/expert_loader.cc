#include "lib/experts/expert_loader.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#include "lib/tensor/codec.h"

namespace tandem {
namespace {

// Bytes read at a time, if that is a panel at least: long enough that a read costs nothing beside
// its bytes on a disk, a network or the page cache (some 100 us of copying), short enough to stay
// in a processor's own cache until it is packed.
constexpr int64_t kReadBytes = 1 << 20;

constexpr absl::Duration kLogInterval = absl::Seconds(5);

// One matrix to load.
struct MatrixLoad {
  const Matrix* matrix = nullptr;
  kernels::PackedLayout layout;
  std::byte* panels = nullptr;
  FilePlace place;
  int node = 0;

  int64_t panels_per_read() const {
    return std::max<int64_t>(1, kReadBytes / (kernels::kPanelRows * matrix->view.row_bytes()));
  }
};

// Some panels of one matrix.
struct Piece {
  const MatrixLoad* load = nullptr;
  int64_t panel = 0;
  int64_t panels = 0;

  int64_t first_row() const { return panel * kernels::kPanelRows; }
  int64_t rows() const {
    return std::min(panels * kernels::kPanelRows, load->layout.rows - first_row());
  }
  int64_t offset() const { return load->place.offset + first_row() * row_bytes(); }
  int64_t bytes() const { return rows() * row_bytes(); }
  int64_t row_bytes() const { return load->matrix->view.row_bytes(); }
};

std::vector<MatrixLoad> MatricesInFileOrder(const TensorSource& source,
                                            std::span<const LoadOrder> orders) {
  std::vector<MatrixLoad> loads;
  loads.reserve(3 * orders.size());
  for (const LoadOrder& order : orders) {
    const PackedExpert& packed = order.target->packed();
    const std::pair<const Matrix*, const kernels::PackedMatrix*> pairs[] = {
        {&order.source->gate, &packed.gate},
        {&order.source->up, &packed.up},
        {&order.source->down, &packed.down}};
    for (const auto& [matrix, target] : pairs) {
      loads.push_back({matrix, target->layout, order.target->Writable(*target),
                       source.PlaceOf(matrix->view), packed.node});
    }
  }
  std::sort(loads.begin(), loads.end(), [](const MatrixLoad& a, const MatrixLoad& b) {
    return std::tie(a.matrix->view.file, a.place.offset) <
           std::tie(b.matrix->view.file, b.place.offset);
  });
  return loads;
}

// Names the tensor in an error about its bytes.
absl::Status InTensor(const TensorView& view, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("tensor ", view.name, ": ", std::string(status.message())));
}

absl::Status ValidateRows(const TensorView& view, const std::byte* src, int64_t first_row,
                          int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) {
    const absl::Status status = ValidateRow(view.dtype, src + r * view.row_bytes(), view.cols());
    if (!status.ok()) {
      return absl::DataLossError(absl::StrCat(view.file, ": tensor ", view.name, ", row ",
                                              first_row + r, ": ", std::string(status.message())));
    }
  }
  return absl::OkStatus();
}

// The fp8 block scales of every row of the piece, [rows][scale columns]; empty when the matrix has
// none.
absl::StatusOr<std::vector<float>> ReadScales(const TensorSource& source, const Piece& piece) {
  const Matrix& matrix = *piece.load->matrix;
  if (!matrix.scale_inv.has_value()) return std::vector<float>();
  const TensorView& view = *matrix.scale_inv;
  const int64_t cols = view.cols();
  const int64_t first_block = piece.first_row() / matrix.fp8_block_rows;
  const int64_t last_block = (piece.first_row() + piece.rows() - 1) / matrix.fp8_block_rows;
  std::vector<float> blocks((last_block - first_block + 1) * cols);
  const FilePlace place = source.PlaceOf(view);
  TANDEM_RETURN_IF_ERROR(
      InTensor(view, place.file->ReadAt(place.offset + first_block * view.row_bytes(),
                                        std::as_writable_bytes(std::span(blocks)))));
  TANDEM_RETURN_IF_ERROR(ValidateRows(view, reinterpret_cast<const std::byte*>(blocks.data()),
                                      first_block, last_block - first_block + 1));
  std::vector<float> rows(piece.rows() * cols);
  for (int64_t r = 0; r < piece.rows(); ++r) {
    const int64_t block = (piece.first_row() + r) / matrix.fp8_block_rows - first_block;
    std::copy_n(blocks.begin() + block * cols, cols, rows.begin() + r * cols);
  }
  return rows;
}

absl::Status LoadPiece(const TensorSource& source, const Piece& piece,
                       std::vector<std::byte>* buffer) {
  const MatrixLoad& load = *piece.load;
  const TensorView& view = load.matrix->view;
  buffer->resize(std::max<size_t>(buffer->size(), piece.bytes()));
  const std::span<std::byte> rows(buffer->data(), piece.bytes());
  TANDEM_RETURN_IF_ERROR(InTensor(view, load.place.file->ReadAt(piece.offset(), rows)));
  TANDEM_RETURN_IF_ERROR(ValidateRows(view, rows.data(), piece.first_row(), piece.rows()));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<float> scales, ReadScales(source, piece));
  const int64_t scale_cols = scales.empty() ? 0 : load.matrix->scale_inv->cols();
  for (int64_t p = 0; p < piece.panels; ++p) {
    const int64_t row = p * kernels::kPanelRows;
    kernels::PackPanel(load.layout, rows.data() + row * view.row_bytes(),
                       std::min<int64_t>(kernels::kPanelRows, piece.rows() - row),
                       scales.empty() ? nullptr : scales.data() + row * scale_cols,
                       load.panels + (piece.panel + p) * load.layout.panel_bytes);
  }
  return absl::OkStatus();
}

// The pieces whose panels go to one memory node, in the order of the file, and the next to take.
struct Queue {
  std::vector<Piece> pieces;
  std::atomic<size_t> next{0};
};

// One run of LoadExperts.
class Loading {
 public:
  Loading(const TensorSource& source, std::span<const LoadOrder> orders, int nodes, int threads,
          const std::function<bool()>& keep_going, std::atomic<double>* fraction)
      : source_(source),
        matrices_(MatricesInFileOrder(source, orders)),
        queues_(nodes),
        keep_going_(keep_going),
        fraction_(fraction),
        read_ahead_(static_cast<size_t>(2 * threads)) {
    for (const MatrixLoad& load : matrices_) {
      const int64_t step = load.panels_per_read();
      for (int64_t panel = 0; panel < load.layout.panels(); panel += step) {
        const Piece piece{&load, panel, std::min(step, load.layout.panels() - panel)};
        bytes_ += piece.bytes();
        queues_[load.node].pieces.push_back(piece);
      }
    }
    // A file that fits into memory beside its packed form may stay in the system's cache, where the
    // next start finds it. A larger one would only push itself out: forget what has been read.
    const int64_t memory_bytes =
        static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
    drop_cached_ = bytes_ > memory_bytes / 3;
  }

  // Takes pieces until there are none, those of the calling thread's node first.
  void Drain() {
    std::vector<std::byte> buffer;
    const size_t own = static_cast<size_t>(base::ThreadPool::ThisNode());
    for (size_t i = 0; i < queues_.size(); ++i) {
      Queue& queue = queues_[(own + i) % queues_.size()];
      while (!stop_.load(std::memory_order_relaxed)) {
        const size_t at = queue.next.fetch_add(1, std::memory_order_relaxed);
        if (at >= queue.pieces.size()) break;
        Take(queue, at, &buffer);
      }
    }
  }

  absl::Status status() {
    absl::MutexLock lock(&mutex_);
    return error_;
  }
  int64_t bytes() const { return bytes_; }

 private:
  void Take(const Queue& queue, size_t at, std::vector<std::byte>* buffer) {
    if (at + read_ahead_ < queue.pieces.size()) {
      const Piece& later = queue.pieces[at + read_ahead_];
      later.load->place.file->ReadAhead(later.offset(), later.bytes());
    }
    const Piece& piece = queue.pieces[at];
    absl::Status status = keep_going_() ? LoadPiece(source_, piece, buffer)
                                        : absl::CancelledError("loading was given up");
    if (!status.ok()) {
      stop_.store(true);
      absl::MutexLock lock(&mutex_);
      if (error_.ok()) error_ = std::move(status);
      return;
    }
    if (drop_cached_) piece.load->place.file->DropCached(piece.offset(), piece.bytes());
    const int64_t done = done_.fetch_add(piece.bytes()) + piece.bytes();
    fraction_->store(static_cast<double>(done) / static_cast<double>(bytes_));
    LogSometimes(done);
  }

  void LogSometimes(int64_t done) {
    const absl::Duration now = base::RealClock().Monotonic();
    int64_t due = log_due_ns_.load();
    if (absl::ToInt64Nanoseconds(now - start_) < due) return;
    if (!log_due_ns_.compare_exchange_strong(due, due + absl::ToInt64Nanoseconds(kLogInterval))) {
      return;  // another thread writes this one
    }
    const double seconds = absl::ToDoubleSeconds(now - start_);
    const double per_second = static_cast<double>(done) / seconds;
    base::LogInfo("experts_loading",
                  {{"gb", absl::StrFormat("%.1f", done / 1e9)},
                   {"gb_total", absl::StrFormat("%.1f", bytes_ / 1e9)},
                   {"gb_per_s", absl::StrFormat("%.2f", per_second / 1e9)},
                   {"seconds_left", absl::StrFormat("%.0f", (bytes_ - done) / per_second)}});
  }

  const TensorSource& source_;
  const std::vector<MatrixLoad> matrices_;
  std::vector<Queue> queues_;  // by node
  const std::function<bool()>& keep_going_;
  std::atomic<double>* const fraction_;
  const size_t read_ahead_;  // pieces
  int64_t bytes_ = 0;        // as stored
  bool drop_cached_ = false;
  const absl::Duration start_ = base::RealClock().Monotonic();
  std::atomic<int64_t> done_{0};
  std::atomic<int64_t> log_due_ns_{absl::ToInt64Nanoseconds(kLogInterval)};
  std::atomic<bool> stop_{false};
  absl::Mutex mutex_;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

absl::Status CopyView(const TensorSource& source, TensorView* view, ExpertCopy* copy) {
  copy->bytes.push_back(std::make_unique_for_overwrite<std::byte[]>(view->size_bytes));
  std::byte* data = copy->bytes.back().get();
  const FilePlace place = source.PlaceOf(*view);
  view->data = data;
  return InTensor(*view, place.file->ReadAt(place.offset, std::span(data, view->size_bytes)));
}

}  // namespace

absl::Status LoadExperts(const TensorSource& source, std::span<const LoadOrder> orders,
                         base::ThreadPool* pool, const std::function<bool()>& keep_going,
                         std::atomic<double>* fraction) {
  Loading loading(source, orders, pool->nodes(), pool->threads(), keep_going, fraction);
  // One item a thread; a thread that comes late finds nothing left.
  pool->ParallelFor(pool->threads(), 1, [&](int64_t, int64_t) { loading.Drain(); });
  return loading.status();
}

absl::StatusOr<ExpertCopy> CopyExpert(const TensorSource& source, const FfnWeights& expert) {
  ExpertCopy copy;
  copy.weights = expert;
  for (Matrix* matrix : {&copy.weights.gate, &copy.weights.up, &copy.weights.down}) {
    TANDEM_RETURN_IF_ERROR(CopyView(source, &matrix->view, &copy));
    if (!matrix->scale_inv.has_value()) continue;
    TANDEM_RETURN_IF_ERROR(CopyView(source, &*matrix->scale_inv, &copy));
  }
  return copy;
}

}  // namespace tandem
