#include <algorithm>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/kernels/attention/attention.h"
#include "gpu_worker/backend/cuda/kernels/attention/prefill_kernels.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

// Thread blocks that fill the largest GPU at hand (132 multiprocessors) nearly twice.
constexpr int64_t kThreadBlocksWanted = 256;
// Parts of the workspace start at multiples of what a TMA tensor map and cp.async want, and more.
constexpr size_t kPartBytes = 256;

static_assert(kPrefillBlockTokens % kPageTokens == 0);

int64_t RoundedUp(int64_t tokens) {
  return (tokens + kPrefillBlockTokens - 1) / kPrefillBlockTokens * kPrefillBlockTokens;
}

int64_t HeadsAtOnce(const MlaShape& shape, const PrefillLimits& limits) {
  return std::min(shape.heads, limits.heads);
}

// Keys and values of this many tokens, counted once per head, are rebuilt at a time.
int64_t KeysMax(const MlaShape& shape, const PrefillLimits& limits) {
  return HeadsAtOnce(shape, limits) * limits.piece_tokens;
}

// The next larger number of heads that CutPrefill considers.
int64_t MoreHeads(const MlaShape& shape, int64_t heads) { return std::min(2 * heads, shape.heads); }

// The state of (row, head) pairs that is kept at a time: see CutPrefill, which takes more heads
// than the limit only as long as kThreadBlocksWanted is not reached, or where one piece is all.
int64_t PairsMax(const MlaShape& shape, const PrefillLimits& limits, int64_t rows_max) {
  return std::max(rows_max * HeadsAtOnce(shape, limits),
                  std::min(rows_max * shape.heads, 2 * kThreadBlocksWanted * kPrefillTileRows));
}

// Linear's measure of the whole decides into how many parts it cuts sums. Here many rows make the
// work, so one part is best; and a count of heads, which is this call's choice or a rank's share,
// must not matter. This many matrices are never cut.
constexpr int64_t kUncutBatch = int64_t{1} << 20;

DeviceMatrix OfHeads(const DeviceMatrix& all, int64_t begin, int64_t heads) {
  DeviceMatrix some = all;
  some.batch = heads;
  some.whole_batch = kUncutBatch;
  some.weights = static_cast<const std::byte*>(all.weights) + begin * all.weight_bytes;
  return some;
}

DeviceMatrix UpShape(Storage storage, int64_t outputs, int64_t latent, int64_t heads) {
  const WeightKind kind = storage == Storage::kBf16 ? WeightKind::kBf16 : WeightKind::kF32;
  DeviceMatrix matrix = MatrixShape({.kind = kind}, outputs, latent);
  matrix.batch = heads;
  matrix.whole_batch = kUncutBatch;
  return matrix;
}

size_t LinearBytes(const MlaShape& shape, Storage storage, const PrefillLimits& limits) {
  size_t bytes = 0;
  for (int64_t heads = HeadsAtOnce(shape, limits);; heads = MoreHeads(shape, heads)) {
    const int64_t rows = KeysMax(shape, limits) / heads;
    for (const Kernels kernels : {Kernels::kReference, Kernels::kPortable, Kernels::kHopper}) {
      for (const int64_t outputs : {shape.nope, shape.v}) {
        const DeviceMatrix w = UpShape(storage, outputs, shape.latent, heads);
        bytes = std::max(bytes, LinearWorkspaceBytes(kernels, w, rows));
      }
    }
    if (heads == shape.heads) return bytes;
  }
}

// The workspace's parts, one behind the other.
struct Parts {
  size_t latents = 0, keys = 0, values = 0, means = 0, maxima = 0, sums = 0, linear = 0, end = 0;
};

Parts Divide(const MlaShape& shape, Storage storage, int64_t rows_max,
             const PrefillLimits& limits) {
  const auto bytes = static_cast<size_t>(BytesOf(storage));
  const auto keys = static_cast<size_t>(KeysMax(shape, limits));
  const auto pairs = static_cast<size_t>(PairsMax(shape, limits, rows_max));
  Parts parts;
  const auto take = [&parts](size_t part_bytes) {
    const size_t begin = parts.end;
    parts.end += (part_bytes + kPartBytes - 1) / kPartBytes * kPartBytes;
    return begin;
  };
  parts.latents = take(limits.piece_tokens * shape.key() * bytes);
  parts.keys = take(keys * shape.nope * bytes);
  parts.values = take(keys * shape.v * bytes);
  parts.means = take(pairs * shape.v * sizeof(float));
  parts.maxima = take(pairs * sizeof(float));
  parts.sums = take(pairs * kPrefillSums * sizeof(float));
  parts.linear = take(LinearBytes(shape, storage, limits));
  return parts;
}

void CheckArgs(const MlaPrefillArgs& args) {
  const MlaShape& s = args.shape;
  const WeightKind kind = args.storage == Storage::kBf16 ? WeightKind::kBf16 : WeightKind::kF32;
  TANDEM_CHECK(args.key_up.format.kind == kind && args.value_up.format.kind == kind);
  TANDEM_CHECK(args.key_up.batch == s.heads && args.value_up.batch == s.heads);
  TANDEM_CHECK(args.key_up.outputs == s.nope && args.key_up.inputs == s.latent);
  TANDEM_CHECK(args.value_up.outputs == s.v && args.value_up.inputs == s.latent);
  TANDEM_CHECK(args.limits.heads > 0 && args.limits.piece_tokens > 0);
  TANDEM_CHECK(args.limits.piece_tokens % kPrefillBlockTokens == 0);
}

// One call's walk over heads and pieces.
class Prefill {
 public:
  Prefill(const MlaPrefillArgs& args, Stream stream)
      : args_(args),
        stream_(stream),
        parts_(Divide(args.shape, args.storage, args.rows, args.limits)),
        tokens_(args.start_position + args.rows) {
    TANDEM_CHECK(args.workspace_bytes >= parts_.end);
    piece_.args = &args_;
    piece_.latents = At(parts_.latents);
    piece_.keys = At(parts_.keys);
    piece_.values = At(parts_.values);
    piece_.means = static_cast<float*>(At(parts_.means));
    piece_.maxima = static_cast<float*>(At(parts_.maxima));
    piece_.sums = static_cast<float*>(At(parts_.sums));
  }

  void Run() {
    const PrefillCut cut = CutPrefill(args_.shape, args_.limits, args_.rows, tokens_);
    for (int64_t head = 0; head < args_.shape.heads; head += cut.heads) {
      piece_.head_begin = head;
      piece_.heads = std::min(cut.heads, args_.shape.heads - head);
      for (int64_t begin = 0; begin < tokens_; begin += cut.piece_tokens) {
        piece_.begin = begin;
        piece_.tokens = std::min(cut.piece_tokens, RoundedUp(tokens_ - begin));
        const bool gathered = head > 0 && cut.piece_tokens >= tokens_;  // for the heads before
        if (!gathered) {
          GatherLatents(args_, begin, piece_.tokens, tokens_, At(parts_.latents), stream_);
        }
        UpProject(args_.key_up, args_.shape.nope, At(parts_.keys));
        UpProject(args_.value_up, args_.shape.v, At(parts_.values));
        Attend();
      }
    }
  }

 private:
  void* At(size_t offset) const { return static_cast<std::byte*>(args_.workspace) + offset; }

  // out [heads, tokens, outputs] of the piece.
  void UpProject(const DeviceMatrix& up, int64_t outputs, void* out) const {
    Linear({.kernels = args_.kernels,
            .w = OfHeads(up, piece_.head_begin, piece_.heads),
            .x = piece_.latents,
            .x_storage = args_.storage,
            .x_stride = args_.shape.key(),
            .x_batch_stride = 0,
            .rows = piece_.tokens,
            .y = out,
            .y_stride = outputs,
            .y_batch_stride = piece_.tokens * outputs,
            .y_storage = args_.storage,
            .workspace = At(parts_.linear),
            .workspace_bytes = parts_.end - parts_.linear},
           stream_);
  }

  void Attend() const {
    if (args_.kernels == Kernels::kReference || args_.storage == Storage::kF32) {
      ReferencePrefillPiece(piece_, stream_);
    } else if (args_.kernels == Kernels::kHopper && HasHopperPrefill(args_.shape)) {
      HopperPrefillPiece(piece_, stream_);
    } else {
      PortablePrefillPiece(piece_, stream_);
    }
  }

  const MlaPrefillArgs& args_;
  Stream stream_;
  Parts parts_;
  int64_t tokens_;
  PrefillPiece piece_;
};

}  // namespace

PrefillCut CutPrefill(const MlaShape& shape, const PrefillLimits& limits, int64_t rows,
                      int64_t tokens) {
  const int64_t keys_max = KeysMax(shape, limits);
  const int64_t padded = RoundedUp(tokens);
  const int64_t tiles = (rows + kPrefillTileRows - 1) / kPrefillTileRows;
  int64_t heads = HeadsAtOnce(shape, limits);
  while (heads < shape.heads) {
    const int64_t more = MoreHeads(shape, heads);
    const bool one_piece = padded * more <= keys_max;
    const bool idle = tiles * heads < kThreadBlocksWanted && keys_max / more >= kPrefillBlockTokens;
    if (!one_piece && !idle) break;
    heads = more;
  }
  return {heads, std::min(padded, keys_max / heads / kPrefillBlockTokens * kPrefillBlockTokens)};
}

size_t PrefillWorkspaceBytes(const MlaShape& shape, Storage storage, int64_t rows_max,
                             const PrefillLimits& limits) {
  return Divide(shape, storage, rows_max, limits).end;
}

void MlaPrefill(const MlaPrefillArgs& args, Stream stream) {
  CheckArgs(args);
  if (args.rows == 0) return;
  Prefill(args, stream).Run();
}

}  // namespace tandem::gpu_worker::cuda
