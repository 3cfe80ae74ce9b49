#include "gpu_worker/backend/cuda/device_experts.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/cuda/memory_plan.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"
#include "lib/kernels/expert_grid.h"

namespace tandem::gpu_worker::cuda {
namespace {

// Of a matrix on the device: what a TMA box or the widest load wants.
constexpr size_t kMatrixAlign = 256;

size_t Aligned(size_t bytes) { return (bytes + kMatrixAlign - 1) / kMatrixAlign * kMatrixAlign; }

bool IsExact(const FfnBatch& batch) { return batch.activation == ActivationForm::kF32; }
bool OnGrid(const FfnBatch& batch) { return batch.reply == ReplyForm::kGridSum; }

}  // namespace

DeviceExperts::DeviceExperts(const DeviceExpertsOptions& options)
    : options_(options), stream_(NewStream()) {}

absl::StatusOr<std::unique_ptr<DeviceExperts>> DeviceExperts::Make(
    const DeviceExpertsOptions& options) {
  TANDEM_CHECK(options.hidden > 0 && options.inter > 0);
  TANDEM_CHECK(options.rows_max > 0 && options.pairs_max > 0);
  TANDEM_RETURN_IF_ERROR(UseDevice(options.device).status());
  std::unique_ptr<DeviceExperts> experts(new DeviceExperts(options));
  TANDEM_RETURN_IF_ERROR(experts->Allocate());
  return experts;
}

void DeviceExperts::Place(DeviceArena* arena) {
  const DeviceExpertsOptions& o = options_;
  Scratch& s = scratch_;
  s.x = arena->Take(o.rows_max * o.hidden * sizeof(float));
  s.x_forms.quantized = arena->Take<std::byte>(o.rows_max * QuantRowBytes(o.hidden));
  s.x_forms.floats = arena->Take<float>(o.rows_max * FloatRowValues(o.hidden));
  s.gate = arena->Take<float>(o.pairs_max * o.inter);
  s.up = arena->Take<float>(o.pairs_max * o.inter);
  s.h_forms.quantized = arena->Take<std::byte>(o.pairs_max * QuantRowBytes(o.inter));
  s.h_forms.floats = arena->Take<float>(o.pairs_max * FloatRowValues(o.inter));
  s.answer = arena->Take<std::byte>(o.rows_max * (o.hidden * sizeof(int32_t) + 1));
  s.lists = arena->Take<std::byte>(ListBytes(o.rows_max, o.pairs_max));
}

absl::Status DeviceExperts::Allocate() {
  DeviceArena plan;
  Place(&plan);
  TANDEM_ASSIGN_OR_RETURN(DeviceArena arena, DeviceArena::Like(plan));
  Place(&arena);
  scratch_memory_ = std::move(arena).Release();
  TANDEM_ASSIGN_OR_RETURN(host_x_,
                          AllocatePinned(options_.rows_max * options_.hidden * sizeof(float)));
  TANDEM_ASSIGN_OR_RETURN(
      host_answer_, AllocatePinned(options_.rows_max * (options_.hidden * sizeof(int32_t) + 1)));
  TANDEM_ASSIGN_OR_RETURN(host_lists_,
                          AllocatePinned(ListBytes(options_.rows_max, options_.pairs_max)));
  return absl::OkStatus();
}

DeviceExperts::Lists DeviceExperts::ListsAt(std::byte* begin, size_t rows, size_t pairs) {
  Lists lists;
  lists.tiles = reinterpret_cast<ProductTile*>(begin);  // first: aligned to 8
  lists.inverse_steps = reinterpret_cast<float*>(lists.tiles + 3 * pairs);
  lists.x_row = reinterpret_cast<uint32_t*>(lists.inverse_steps + rows);
  lists.to = lists.x_row + pairs;
  lists.weights = reinterpret_cast<float*>(lists.to + pairs);
  return lists;
}

size_t DeviceExperts::ListBytes(size_t rows, size_t pairs) {
  return pairs * (3 * sizeof(ProductTile) + 3 * sizeof(float)) + rows * sizeof(float);
}

absl::Status DeviceExperts::Reserve(int64_t bytes, int64_t experts) {
  TANDEM_CHECK(weights_.data() == nullptr);
  TANDEM_ASSIGN_OR_RETURN(const DeviceProperties device, UseDevice(options_.device));
  const size_t wanted = static_cast<size_t>(bytes) + 3 * experts * kMatrixAlign;
  if (wanted > device.free_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("expected ", GibText(wanted), " of memory on ", device.name, " for ", experts,
                     " hot experts, found ", GibText(device.free_bytes), "; name fewer of them"));
  }
  TANDEM_ASSIGN_OR_RETURN(weights_, AllocateDevice(wanted));
  return absl::OkStatus();
}

absl::Status DeviceExperts::Hold(uint32_t layer, uint32_t expert, const PackedExpert& packed) {
  PackedExpert held = packed;
  for (kernels::PackedMatrix* matrix : {&held.gate, &held.up, &held.down}) {
    TANDEM_RETURN_IF_ERROR(CheckExpertType(matrix->layout.type));
    const auto bytes = static_cast<size_t>(matrix->layout.bytes());
    TANDEM_CHECK_LE(weights_used_ + bytes, weights_.bytes());
    std::byte* const to = weights_.as<std::byte>() + weights_used_;
    CopyToDevice(to, matrix->data, bytes, stream_.get());
    matrix->data = to;
    weights_used_ += Aligned(bytes);
  }
  Synchronize(stream_.get());  // the original may go
  TANDEM_CHECK_EQ(held.gate.layout.cols, options_.hidden);
  TANDEM_CHECK_EQ(held.down.layout.cols, options_.inter);
  experts_[{layer, expert}] = held;
  return absl::OkStatus();
}

void DeviceExperts::Run(const FfnBatch& batch, uint32_t layer) {
  TANDEM_CHECK_LE(static_cast<int64_t>(batch.rows.size()), options_.rows_max);
  if (batch.pairs.empty()) return;
  MakeCurrent(options_.device);
  std::vector<uint32_t> expert_of_pair;
  for (const FfnPair& pair : batch.pairs) expert_of_pair.push_back(pair.expert);
  std::vector<Pass> passes;
  for (const auto& groups : CutIntoPasses(GroupByExpert(expert_of_pair), pairs_max(batch))) {
    passes.push_back(PassOf(batch, layer, groups));
  }
  UploadRows(batch, passes);
  for (size_t i = 0; i < passes.size(); ++i) {
    // The lists' memory is free again. Outputs that were fetched have been waited for.
    if (i > 0 && OnGrid(batch)) Synchronize(stream_.get());
    UploadLists(batch, passes[i]);
    LaunchPass(batch, passes[i]);
    if (!OnGrid(batch)) FetchPairs(batch, passes[i]);
  }
  if (OnGrid(batch)) FetchSums(batch);
}

// Outputs that are not added up lie where the sums of rows would.
int64_t DeviceExperts::pairs_max(const FfnBatch& batch) const {
  return OnGrid(batch) ? options_.pairs_max : std::min(options_.pairs_max, options_.rows_max);
}

// The forms of rows that products read.
void DeviceExperts::AddForms(const FfnBatch& batch, const std::vector<Products>& products,
                             const Forms& all, ExpertRowForms* out) {
  for (const Products& p : products) {
    if (TakesQuantRows(p.layout.type, IsExact(batch))) {
      out->quantized = all.quantized;
    } else {
      out->floats = all.floats;
    }
  }
}

void DeviceExperts::UploadRows(const FfnBatch& batch, const std::vector<Pass>& passes) {
  const size_t row_bytes = options_.hidden * (batch.x_dtype == DType::kF32 ? 4 : 2);
  std::byte* to = host_x_.as<std::byte>();
  for (const FfnRow& row : batch.rows) {
    std::memcpy(to, row.x, row_bytes);
    to += row_bytes;
  }
  const size_t rows = batch.rows.size();
  CopyToDevice(scratch_.x, host_x_.data(), rows * row_bytes, stream_.get());
  if (OnGrid(batch)) {
    FillBytes(scratch_.answer, 0, rows * (options_.hidden * sizeof(int32_t) + 1), stream_.get());
  }
  ExpertRowsArgs prepare;
  prepare.x = scratch_.x;
  prepare.x_is_f32 = batch.x_dtype == DType::kF32;
  prepare.rows = static_cast<int64_t>(rows);
  prepare.cols = options_.hidden;
  prepare.out.round_to_bf16 = !IsExact(batch);
  for (const Pass& pass : passes) AddForms(batch, pass.gate_up, scratch_.x_forms, &prepare.out);
  PrepareExpertRows(prepare, stream_.get());
}

namespace {

// The launch for matrices laid out like `matrix`.
template <typename Products>
Products& ProductsFor(const kernels::PackedMatrix& matrix, std::vector<Products>* all) {
  const kernels::PackedLayout& layout = matrix.layout;
  for (Products& products : *all) {
    if (products.layout.type == layout.type && products.layout.fp8_cols == layout.fp8_cols) {
      TANDEM_CHECK_EQ(products.layout.cols, layout.cols);
      TANDEM_CHECK_EQ(products.layout.rows, layout.rows);
      return products;
    }
  }
  all->push_back({layout, {}, 0});
  return all->back();
}

// Tiles of rows [first, first + rows) of the pass.
template <typename Products>
void AddTiles(const kernels::PackedMatrix& matrix, float* y, uint32_t first, uint32_t rows,
              std::vector<Products>* all) {
  Products& products = ProductsFor(matrix, all);
  for (uint32_t done = 0; done < rows; done += kExpertTileRows) {
    const uint32_t here = std::min<uint32_t>(kExpertTileRows, rows - done);
    products.tiles.push_back({matrix.data, y, first + done, here});
    products.rows_max = std::max(products.rows_max, here);
  }
}

}  // namespace

DeviceExperts::Pass DeviceExperts::PassOf(const FfnBatch& batch, uint32_t layer,
                                          const std::vector<ExpertGroup>& groups) const {
  Pass pass;
  for (const ExpertGroup& group : groups) {
    const auto found = experts_.find({layer, group.expert});
    TANDEM_CHECK(found != experts_.end());
    const PackedExpert& expert = found->second;
    const auto first = static_cast<uint32_t>(pass.pairs.size());
    const auto rows = static_cast<uint32_t>(group.pairs.size());
    pass.pairs.insert(pass.pairs.end(), group.pairs.begin(), group.pairs.end());
    AddTiles(expert.gate, scratch_.gate, first, rows, &pass.gate_up);
    AddTiles(expert.up, scratch_.up, first, rows, &pass.gate_up);
    AddTiles(expert.down, nullptr, first, rows, &pass.down);
  }
  return pass;
}

void DeviceExperts::UploadLists(const FfnBatch& batch, const Pass& pass) {
  const Lists lists = ListsAt(host_lists_.as<std::byte>(), batch.rows.size(), pass.pairs.size());
  for (size_t r = 0; r < batch.rows.size() && OnGrid(batch); ++r) {
    lists.inverse_steps[r] = kernels::GridStep(-batch.rows[r].grid_exponent);
  }
  for (size_t i = 0; i < pass.pairs.size(); ++i) {
    const FfnPair& pair = batch.pairs[pass.pairs[i]];
    lists.x_row[i] = static_cast<uint32_t>(pair.row);
    lists.to[i] = OnGrid(batch) ? lists.x_row[i] : static_cast<uint32_t>(i);
    lists.weights[i] = pair.weight;
  }
  ProductTile* tiles = lists.tiles;
  for (const std::vector<Products>* all : {&pass.gate_up, &pass.down}) {
    for (const Products& products : *all) {
      tiles = std::copy(products.tiles.begin(), products.tiles.end(), tiles);
    }
  }
  CopyToDevice(scratch_.lists, host_lists_.data(), ListBytes(batch.rows.size(), pass.pairs.size()),
               stream_.get());
}

void DeviceExperts::LaunchPass(const FfnBatch& batch, const Pass& pass) {
  const Lists lists = ListsAt(scratch_.lists, batch.rows.size(), pass.pairs.size());
  const ProductTile* tiles = lists.tiles;
  ExpertProductsArgs args;
  args.exact = IsExact(batch);
  args.x_row = lists.x_row;
  args.y_stride = options_.inter;
  LaunchProducts(pass.gate_up, scratch_.x_forms, args, &tiles);
  GatedRowsArgs gated;
  gated.gate = scratch_.gate;
  gated.up = scratch_.up;
  gated.stride = gated.cols = options_.inter;
  gated.rows = static_cast<int64_t>(pass.pairs.size());
  gated.out.round_to_bf16 = !IsExact(batch);
  AddForms(batch, pass.down, scratch_.h_forms, &gated.out);
  GateExpertRows(gated, stream_.get());
  args.x_row = nullptr;
  args.target = OnGrid(batch) ? ProductTarget::kGrid : ProductTarget::kWeighed;
  args.to = lists.to;
  args.weights = lists.weights;
  args.inverse_steps = lists.inverse_steps;
  args.limit = static_cast<float>(batch.grid_limit);
  args.sums = reinterpret_cast<int32_t*>(scratch_.answer);
  args.flags = reinterpret_cast<uint8_t*>(args.sums + batch.rows.size() * options_.hidden);
  args.out = reinterpret_cast<float*>(scratch_.answer);
  LaunchProducts(pass.down, scratch_.h_forms, args, &tiles);
}

void DeviceExperts::LaunchProducts(const std::vector<Products>& products, const Forms& x,
                                   ExpertProductsArgs args, const ProductTile** tiles) {
  for (const Products& p : products) {
    args.layout = p.layout;
    args.x = TakesQuantRows(p.layout.type, args.exact) ? static_cast<const void*>(x.quantized)
                                                       : x.floats;
    args.tiles = *tiles;
    args.tile_count = static_cast<int64_t>(p.tiles.size());
    args.rows_max = static_cast<int>(p.rows_max);
    *tiles += p.tiles.size();
    MultiplyExpertTiles(args, stream_.get());
  }
}

void DeviceExperts::FetchPairs(const FfnBatch& batch, const Pass& pass) {
  const size_t row_bytes = options_.hidden * sizeof(float);
  CopyToHost(host_answer_.data(), scratch_.answer, pass.pairs.size() * row_bytes, stream_.get());
  Synchronize(stream_.get());
  for (size_t i = 0; i < pass.pairs.size(); ++i) {
    std::memcpy(batch.pairs[pass.pairs[i]].out, host_answer_.as<std::byte>() + i * row_bytes,
                row_bytes);
  }
}

void DeviceExperts::FetchSums(const FfnBatch& batch) {
  const int64_t rows = static_cast<int64_t>(batch.rows.size()), hidden = options_.hidden;
  CopyToHost(host_answer_.data(), scratch_.answer, rows * (hidden * sizeof(int32_t) + 1),
             stream_.get());
  Synchronize(stream_.get());
  const int32_t* sums = host_answer_.as<int32_t>();
  const auto* const flags = reinterpret_cast<const uint8_t*>(sums + rows * hidden);
  for (int64_t r = 0; r < rows; ++r, sums += hidden) {
    const FfnRow& row = batch.rows[r];
    for (int64_t k = 0; k < hidden; ++k) row.sums[k] += sums[k];
    if (flags[r] != 0) *row.flag = 1;
  }
}

}  // namespace tandem::gpu_worker::cuda
