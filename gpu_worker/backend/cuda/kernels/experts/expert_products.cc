#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/cuda/kernels/experts/expert_kernels.h"
#include "lib/base/check.h"
#include "lib/kernels/panel.h"
#include "lib/kernels/weights.h"

namespace tandem::gpu_worker::cuda {

using experts::ProductWork;

bool TakesQuantRows(DType type, bool exact) { return !exact && kernels::IsIntegerForm(type); }

absl::Status CheckExpertType(DType type) {
  switch (type) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kF8E4M3:
      return absl::OkStatus();
    default:
      break;
  }
  if (kernels::IsIntegerForm(type)) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(
      "expected expert weights of a type the GPU's kernels take, found ", NameOf(type)));
}

void MultiplyExpertTiles(const ExpertProductsArgs& a, Stream stream) {
  if (a.tile_count == 0) return;
  const DType type = a.layout.type;
  const bool exact = a.exact || type == DType::kF32;
  TANDEM_CHECK_LE(a.tile_count, 65535);
  TANDEM_CHECK(a.rows_max >= 1 && a.rows_max <= kExpertTileRows);
  ProductWork work = {};
  work.tiles = a.tiles;
  work.x = static_cast<const unsigned char*>(a.x);
  work.x_row = a.x_row;
  work.x_row_bytes = TakesQuantRows(type, exact) ? QuantRowBytes(a.layout.cols)
                                                 : FloatRowValues(a.layout.cols) * 4;
  work.panels = a.layout.panels();
  work.panel_bytes = a.layout.panel_bytes;
  work.outputs = a.layout.rows;
  work.cols = a.layout.cols;
  work.rows_max = a.rows_max;
  work.scale_cols = static_cast<int>(kernels::Fp8ScaleCols(a.layout));
  work.target = a.target;
  work.y_stride = a.y_stride;
  work.to = a.to;
  work.weights = a.weights;
  work.inverse_steps = a.inverse_steps;
  work.limit = a.limit;
  work.sums = a.sums;
  work.flags = a.flags;
  work.out = a.out;
  const bool started = exact ? experts::LaunchExactHalf(type, work, a.tile_count, stream) ||
                                   experts::LaunchExactSuper(type, work, a.tile_count, stream) ||
                                   experts::LaunchExactList(type, work, a.tile_count, stream)
                             : experts::LaunchHalfCodes(type, work, a.tile_count, stream) ||
                                   experts::LaunchSuperCodes(type, work, a.tile_count, stream) ||
                                   experts::LaunchListCodes(type, work, a.tile_count, stream) ||
                                   experts::LaunchFloats(type, work, a.tile_count, stream);
  TANDEM_CHECK(started);  // CheckExpertType has passed
}

}  // namespace tandem::gpu_worker::cuda
