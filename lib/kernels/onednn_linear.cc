#include "lib/kernels/onednn_linear.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"
#include "oneapi/dnnl/dnnl.hpp"

namespace tandem::kernels {
namespace {

using dnnl::memory;

const dnnl::engine& CpuEngine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// oneDNN splits its loops over OpenMP threads; here the callers have split the work already.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }

 private:
  const int before_;
};

absl::Status FromDnnl(const dnnl::error& error, const std::string& what) {
  const std::string message = absl::StrCat("oneDNN, ", what, ": ", error.what());
  return error.status == dnnl_unimplemented ? absl::UnimplementedError(message)
                                            : absl::InternalError(message);
}

// One weight slice, packed, with the primitive of its shape.
struct Slice {
  int64_t outs = 0;
  dnnl::matmul::primitive_desc description;
  dnnl::matmul primitive;
  memory weights;
};

dnnl::matmul::primitive_desc Describe(int64_t outs, int64_t k) {
  const memory::desc x({OneDnnLinear::kTileRows, k}, memory::data_type::bf16,
                       memory::format_tag::ab);
  const memory::desc w({k, outs}, memory::data_type::bf16, memory::format_tag::any);
  const memory::desc y({OneDnnLinear::kTileRows, outs}, memory::data_type::f32,
                       memory::format_tag::ab);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return dnnl::matmul::primitive_desc(dnnl::matmul::desc(x, w, y), attributes, CpuEngine());
}

Slice Pack(const uint16_t* w, int64_t outs, int64_t k) {
  Slice slice;
  slice.outs = outs;
  slice.description = Describe(outs, k);
  slice.primitive = dnnl::matmul(slice.description);
  // [outs, k] row-major is [k, outs] with the first dimension contiguous.
  const memory::desc plain({k, outs}, memory::data_type::bf16, memory::format_tag::ba);
  memory from(plain, CpuEngine(), const_cast<uint16_t*>(w));
  slice.weights = memory(slice.description.weights_desc(), CpuEngine());
  dnnl::stream stream(CpuEngine());
  dnnl::reorder(from, slice.weights).execute(stream, from, slice.weights);
  stream.wait();
  return slice;
}

// Scratch that a thread keeps between calls.
struct TileScratch {
  std::vector<uint16_t> x;
  std::vector<float> y;
  std::vector<std::byte> library;
};

void RunSlice(const Slice& slice, const uint16_t* x, TileScratch* scratch) {
  const auto library_bytes = slice.description.scratchpad_desc().get_size();
  if (scratch->library.size() < library_bytes) scratch->library.resize(library_bytes);
  memory src(slice.description.src_desc(), CpuEngine(), const_cast<uint16_t*>(x));
  memory dst(slice.description.dst_desc(), CpuEngine(), scratch->y.data());
  memory pad(slice.description.scratchpad_desc(), CpuEngine(), scratch->library.data());
  dnnl::stream stream(CpuEngine());
  slice.primitive.execute(stream, {{DNNL_ARG_SRC, src},
                                   {DNNL_ARG_WEIGHTS, slice.weights},
                                   {DNNL_ARG_DST, dst},
                                   {DNNL_ARG_SCRATCHPAD, pad}});
  stream.wait();
}

// Bits of small numbers of both signs, different for each (row, k).
uint16_t TrialBf16(int64_t row, int64_t k) {
  const uint32_t hash = static_cast<uint32_t>(row * 7919 + k + 1) * 2654435761u;
  // Sign and mantissa from the hash, exponent 2^-3 .. 2^0.
  return static_cast<uint16_t>((hash >> 16 & 0x807f) | ((124 + (hash >> 8) % 4) << 7));
}

}  // namespace

struct OneDnnLinear::Impl {
  int64_t n = 0, k = 0;
  std::vector<Slice> slices;
};

OneDnnLinear::OneDnnLinear(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
OneDnnLinear::~OneDnnLinear() = default;

int64_t OneDnnLinear::slices() const { return static_cast<int64_t>(impl_->slices.size()); }

absl::StatusOr<std::unique_ptr<OneDnnLinear>> OneDnnLinear::Create(const uint16_t* w, int64_t n,
                                                                   int64_t k) {
  TANDEM_CHECK_GE(n, 1);
  TANDEM_CHECK_GE(k, 1);
  auto impl = std::make_unique<Impl>();
  impl->n = n;
  impl->k = k;
  const OneThread one_thread;
  try {
    for (int64_t out = 0; out < n; out += kSliceOuts) {
      impl->slices.push_back(Pack(w + out * k, std::min(kSliceOuts, n - out), k));
    }
  } catch (const dnnl::error& error) {
    return FromDnnl(error, absl::StrCat("packing bf16 weights [", n, ", ", k, "]"));
  }
  std::unique_ptr<OneDnnLinear> linear(new OneDnnLinear(std::move(impl)));
  const absl::Status status = linear->CheckRowsIndependent();
  if (!status.ok()) return status;
  return linear;
}

void OneDnnLinear::Run(const uint16_t* x, int64_t x_stride, int64_t rows, int64_t slice_begin,
                       int64_t slice_end, float* y, int64_t y_stride) const {
  thread_local TileScratch scratch;
  const OneThread one_thread;
  const int64_t k = impl_->k;
  if (static_cast<int64_t>(scratch.x.size()) < kTileRows * k) scratch.x.resize(kTileRows * k);
  if (static_cast<int64_t>(scratch.y.size()) < kTileRows * kSliceOuts) {
    scratch.y.resize(kTileRows * kSliceOuts);
  }
  for (int64_t first = 0; first < rows; first += kTileRows) {
    const int64_t tile_rows = std::min(kTileRows, rows - first);
    for (int64_t r = 0; r < kTileRows; ++r) {
      uint16_t* to = scratch.x.data() + r * k;
      if (r < tile_rows) {
        std::memcpy(to, x + (first + r) * x_stride, k * sizeof(uint16_t));
      } else {
        std::memset(to, 0, k * sizeof(uint16_t));
      }
    }
    for (int64_t s = slice_begin; s < slice_end; ++s) {
      const Slice& slice = impl_->slices[s];
      // A primitive that was made and ran once in the check has no reason to fail; if it does,
      // memory is out.
      try {
        RunSlice(slice, scratch.x.data(), &scratch);
      } catch (const dnnl::error& error) {
        base::CheckFailed(__FILE__, __LINE__, absl::StrCat("oneDNN matmul: ", error.what()));
      }
      for (int64_t r = 0; r < tile_rows; ++r) {
        std::memcpy(y + (first + r) * y_stride + s * kSliceOuts, scratch.y.data() + r * slice.outs,
                    slice.outs * sizeof(float));
      }
    }
  }
}

absl::Status OneDnnLinear::CheckRowsIndependent() const {
  const int64_t n = impl_->n, k = impl_->k;
  // The row under test alone, then at several places among others.
  std::vector<uint16_t> row(k);
  for (int64_t i = 0; i < k; ++i) row[i] = TrialBf16(0, i);
  std::vector<float> want(n);
  Run(row.data(), k, 1, 0, slices(), want.data(), n);
  std::vector<uint16_t> tile(kTileRows * k);
  std::vector<float> got(kTileRows * n);
  for (int64_t place : {int64_t{0}, int64_t{1}, int64_t{15}, int64_t{16}, kTileRows - 1}) {
    for (int64_t r = 0; r < kTileRows; ++r) {
      for (int64_t i = 0; i < k; ++i) tile[r * k + i] = r == place ? row[i] : TrialBf16(r + 1, i);
    }
    Run(tile.data(), k, kTileRows, 0, slices(), got.data(), n);
    if (std::memcmp(got.data() + place * n, want.data(), n * sizeof(float)) != 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("oneDNN: a row of a bf16 linear layer [", n, ", ", k,
                       "] depends on its place in the tile (place ", place, ")"));
    }
  }
  return absl::OkStatus();
}

bool OneDnnLinear::Available() {
  static const bool available = [] {
    constexpr int64_t kOuts = 300, kCols = 352;  // a whole and a partial slice, no power of two
    std::vector<uint16_t> w(kOuts * kCols);
    for (size_t i = 0; i < w.size(); ++i) w[i] = TrialBf16(1000, static_cast<int64_t>(i));
    return Create(w.data(), kOuts, kCols).ok();
  }();
  return available;
}

}  // namespace tandem::kernels
