#include "gpu_worker/backend/cuda/cuda_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/cuda/device_arena.h"
#include "gpu_worker/backend/cuda/kernels/linear/pack.h"
#include "gpu_worker/backend/host/load_rows.h"
#include "gpu_worker/backend/host/read_weights.h"
#include "lib/base/check.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#include "lib/kernels/fp8_linear.h"
#include "lib/model/model_weights_names.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker::cuda {
namespace {

using R = TensorRole;

// Fills row i of a matrix, f32.
using RowSource = std::function<absl::Status(int64_t row, float* dst)>;

constexpr WeightFormat kF32Format = {WeightKind::kF32};

// Walks over everything that goes to the device, in one order. It counts when `weights` is null,
// and packs and copies otherwise: the size of the allocation is that of the same walk.
class WeightWalk {
 public:
  WeightWalk(const ModelConfig& config, const CudaFormats& formats, const CudaShard& shard,
             const ModelWeights* weights, base::ThreadPool* pool, Stream stream, DeviceArena& arena)
      : config_(config),
        formats_(formats),
        plan_(*shard.plan),
        rank_(shard.rank),
        weights_(weights),
        pool_(pool),
        stream_(stream),
        arena_(arena) {}

  absl::StatusOr<CudaWeights> Run() {
    CudaWeights out;
    TANDEM_RETURN_IF_ERROR(Embedding(&out));
    for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
      TANDEM_ASSIGN_OR_RETURN(out.layers.emplace_back(), Layer(i));
      if (weights_ != nullptr && rank_ == 0) {
        base::LogInfo("layer_loaded", {{"layer", i}, {"of", config_.num_hidden_layers}});
      }
    }
    out.final_norm = Norm(config_.hidden_size, Of(&ModelWeights::final_norm));
    TANDEM_ASSIGN_OR_RETURN(out.head, Linear(R::kLmHead, 0, config_.vocab_size, config_.hidden_size,
                                             Of(&ModelWeights::lm_head), &out.vocab_split));
    out.bytes = arena_.used();
    return out;
  }

 private:
  template <typename T>
  const T* Of(T ModelWeights::*member) const {
    return weights_ == nullptr ? nullptr : &(weights_->*member);
  }

  absl::Status Embedding(CudaWeights* out) {
    out->embedding_split =
        plan_.SplitOf(R::kEmbedding, config_.vocab_size, ShardNeedsOf(LinearKernel::kNative));
    const ShardRange own = out->embedding_split.of(rank_);
    const int64_t row_bytes = own.size() * BytesOf(formats_.storage());
    void* const to = arena_.Take(config_.vocab_size * row_bytes);
    out->embedding = to;
    if (weights_ == nullptr) return absl::OkStatus();
    constexpr int64_t kRows = 4096;  // at a time: 59 MB of 7168 bf16 values
    for (int64_t begin = 0; begin < config_.vocab_size; begin += kRows) {
      const int64_t rows = std::min(kRows, config_.vocab_size - begin);
      std::vector<std::byte> staging(rows * row_bytes);
      pool_->ParallelFor(rows, 1, [&](int64_t first, int64_t end) {
        std::vector<float> values(config_.hidden_size);
        for (int64_t r = first; r < end; ++r) {
          DequantizeMatrixRow(weights_->embedding, begin + r, values.data());
          Store(values.data() + own.begin, own.size(), staging.data() + r * row_bytes);
        }
      });
      CopyToDevice(static_cast<std::byte*>(to) + begin * row_bytes, staging.data(), staging.size(),
                   stream_);
      Synchronize(stream_);
    }
    return absl::OkStatus();
  }

  void Store(const float* values, int64_t count, std::byte* to) const {
    if (formats_.storage() == Storage::kF32) {
      std::memcpy(to, values, count * sizeof(float));
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      const uint16_t bits = F32ToBF16(values[i]);
      std::memcpy(to + i * sizeof(bits), &bits, sizeof(bits));
    }
  }

  // `values`: what the tensor holds; empty while counting.
  const float* Vector(int64_t count, const std::vector<float>& values) {
    float* const to = arena_.Take<float>(count);
    if (weights_ == nullptr) return to;
    TANDEM_CHECK_EQ(static_cast<int64_t>(values.size()), count);
    CopyToDevice(to, values.data(), count * sizeof(float), stream_);
    Synchronize(stream_);
    return to;
  }

  const float* Norm(int64_t count, const TensorView* view) {
    return Vector(count,
                  view == nullptr ? std::vector<float>() : ReadNorm(formats_.precision, *view));
  }

  // A batch of matrices of one shape. make(b): matrix b, packed.
  absl::StatusOr<DeviceMatrix> Place(
      const WeightFormat& format, int64_t outputs, int64_t inputs, int64_t batch,
      const std::function<absl::StatusOr<PackedMatrix>(int64_t b)>& make) {
    DeviceMatrix shape = MatrixShape(format, outputs, inputs);
    shape.batch = batch;
    auto* const weights = arena_.Take<std::byte>(shape.weight_bytes * batch);
    auto* const scales = arena_.Take<std::byte>(shape.scale_bytes * batch);
    shape.weights = weights;
    shape.scales = shape.scale_bytes > 0 ? scales : nullptr;
    if (weights_ == nullptr) return shape;
    for (int64_t b = 0; b < batch; ++b) {
      TANDEM_ASSIGN_OR_RETURN(const PackedMatrix packed, make(b));
      TANDEM_CHECK_EQ(static_cast<int64_t>(packed.weights.size()), shape.weight_bytes);
      TANDEM_CHECK_EQ(static_cast<int64_t>(packed.scales.size()), shape.scale_bytes);
      CopyToDevice(weights + b * shape.weight_bytes, packed.weights.data(), packed.weights.size(),
                   stream_);
      CopyToDevice(scales + b * shape.scale_bytes, packed.scales.data(), packed.scales.size(),
                   stream_);
      Synchronize(stream_);
    }
    return shape;
  }

  // Reads all rows in parallel, then packs: rows that cannot be used are named before.
  absl::StatusOr<PackedMatrix> Pack(const WeightFormat& format, int64_t outputs, int64_t inputs,
                                    const RowSource& source) {
    std::vector<float> values(outputs * inputs);
    TANDEM_RETURN_IF_ERROR(ForAllOrError(
        *pool_, outputs, [&](int64_t i) { return source(i, values.data() + i * inputs); }));
    return PackMatrix(format, outputs, inputs, [&](int64_t i, float* dst) {
      std::copy_n(values.data() + i * inputs, inputs, dst);
    });
  }

  // Outputs `own` of a matrix, which begin with a block.
  absl::StatusOr<PackedMatrix> TakeFp8(const Matrix& matrix, const ShardRange& own) {
    const int64_t blocks = kernels::Fp8Blocks(matrix.cols());
    std::vector<float> scales;
    for (int64_t first = own.begin; first < own.end; first += kernels::kFp8Block) {
      const std::vector<float> row = BlockScalesOfRows(matrix, first, 1);
      TANDEM_CHECK_EQ(static_cast<int64_t>(row.size()), blocks);
      for (const float scale : row) {
        if (std::isfinite(scale)) continue;
        return BadRow(matrix, first, absl::StrCat("expected finite scales, found ", scale));
      }
      scales.insert(scales.end(), row.begin(), row.end());
    }
    std::vector<uint8_t> codes(own.size() * matrix.cols());
    TANDEM_RETURN_IF_ERROR(ForAllOrError(*pool_, own.size(), [&](int64_t i) {
      const int64_t r = own.begin + i;
      const std::byte* row = matrix.view.data + r * matrix.view.row_bytes();
      const absl::Status status = ValidateRow(matrix.view.dtype, row, matrix.cols());
      if (!status.ok()) return BadRow(matrix, r, std::string(status.message()));
      std::memcpy(codes.data() + i * matrix.cols(), row, matrix.cols());
      return absl::OkStatus();
    }));
    return PackFp8(own.size(), matrix.cols(), codes.data(), scales.data());
  }

  LinearFormat FormatOf(R role, int64_t layer) const {
    return formats_.FormatOf(ModulePath(role, layer));
  }
  ShardNeeds NeedsOf(R role, int64_t layer) const { return ShardNeedsOf(FormatOf(role, layer)); }

  // This rank's outputs of a layer, and in `split` those of all ranks.
  absl::StatusOr<DeviceMatrix> Linear(R role, int64_t layer, int64_t outputs, int64_t inputs,
                                      const Matrix* matrix, Split* split = nullptr) {
    const Split shares = plan_.SplitOf(role, outputs, NeedsOf(role, layer));
    if (split != nullptr) *split = shares;
    return Share(role, layer, shares, inputs, matrix);
  }

  // One linear layer of which ranks have shares.
  struct Part {
    R role;
    const Split& shares;
    const Matrix* matrix;  // null while counting
  };

  absl::StatusOr<DeviceMatrix> Share(R role, int64_t layer, const Split& shares, int64_t inputs,
                                     const Matrix* matrix) {
    const Part part = {role, shares, matrix};
    const ShardRange own = shares.of(rank_);
    TANDEM_ASSIGN_OR_RETURN(const WeightFormat format, FormatOfShare(part, layer));
    if (own.empty()) return DeviceMatrix{};
    TANDEM_ASSIGN_OR_RETURN(DeviceMatrix placed, Place(format, own.size(), inputs, 1, [&](int64_t) {
                              return PackShare(part, format, inputs);
                            }));
    placed.whole_outputs = shares.total();
    return placed;
  }

  absl::StatusOr<WeightFormat> FormatOfShare(const Part& part, int64_t layer) const {
    TANDEM_ASSIGN_OR_RETURN(const WeightFormat format,
                            DeviceFormat(FormatOf(part.role, layer), formats_.precision));
    const ShardRange own = part.shares.of(rank_);
    // Weights that share a scale stay together; a share that begins amid them would need the
    // neighbour's. The plan sees to it, except between heads.
    if (format.kind == WeightKind::kFp8 && own.begin % kernels::kFp8Block != 0 && !own.empty()) {
      return absl::UnimplementedError(
          absl::StrCat("expected rank ", rank_, "'s share of ", ModulePath(part.role, layer),
                       " to begin at a multiple of ", kernels::kFp8Block, " outputs in fp8, found ",
                       own.begin, ", a head's; use fewer ranks"));
    }
    return format;
  }

  absl::StatusOr<PackedMatrix> PackShare(const Part& part, const WeightFormat& format,
                                         int64_t inputs) {
    const ShardRange own = part.shares.of(rank_);
    if (format.kind == WeightKind::kFp8 && IsFp8InBlocks(*part.matrix)) {
      return TakeFp8(*part.matrix, own);
    }
    return Pack(format, own.size(), inputs, [&](int64_t i, float* dst) {
      return ReadFiniteRow(*part.matrix, own.begin + i, dst);
    });
  }

  // Where outputs lie is the same on all ranks, and so is how sums are split: by the sizes of the
  // whole, which are those of one rank alone.
  absl::StatusOr<CudaPair> Pair(int64_t layer, int64_t inputs, const Part& first,
                                const Part& second) {
    CudaPair to;
    to.second_begin = RoundUpTo(first.shares.part_max(), kStackMultiple);
    to.stride = RoundUpTo(to.second_begin + second.shares.part_max(), kOutputsMultiple);
    TANDEM_ASSIGN_OR_RETURN(const WeightFormat format, FormatOfShare(first, layer));
    TANDEM_ASSIGN_OR_RETURN(const WeightFormat other_format, FormatOfShare(second, layer));
    const int64_t outputs = second.shares.of(rank_).size();
    if (!(format == other_format) || first.shares.of(rank_).empty() || outputs == 0) {
      TANDEM_ASSIGN_OR_RETURN(to.first,
                              Share(first.role, layer, first.shares, inputs, first.matrix));
      TANDEM_ASSIGN_OR_RETURN(to.second,
                              Share(second.role, layer, second.shares, inputs, second.matrix));
      return to;
    }
    const auto make = [&](int64_t) -> absl::StatusOr<PackedMatrix> {
      TANDEM_ASSIGN_OR_RETURN(const PackedMatrix a, PackShare(first, format, inputs));
      TANDEM_ASSIGN_OR_RETURN(const PackedMatrix b, PackShare(second, format, inputs));
      return StackOutputs(a, b, to.second_begin);
    };
    TANDEM_ASSIGN_OR_RETURN(to.both, Place(format, to.second_begin + outputs, inputs, 1, make));
    to.both.whole_outputs = RoundUpTo(first.shares.total(), kStackMultiple) + second.shares.total();
    return to;
  }

  absl::StatusOr<CudaFfn> Ffn(const R (&roles)[3], int64_t layer, int64_t inter,
                              const FfnWeights* from) {
    const int64_t hidden = config_.hidden_size;
    CudaFfn to;
    to.inter =
        plan_.SplitOf(roles[0], inter, Both(NeedsOf(roles[0], layer), NeedsOf(roles[1], layer)));
    TANDEM_ASSIGN_OR_RETURN(
        to.gate_up,
        Pair(layer, hidden, {roles[0], to.inter, from == nullptr ? nullptr : &from->gate},
             {roles[1], to.inter, from == nullptr ? nullptr : &from->up}));
    TANDEM_ASSIGN_OR_RETURN(to.down, Linear(roles[2], layer, hidden, inter,
                                            from == nullptr ? nullptr : &from->down, &to.hidden));
    return to;
  }

  absl::StatusOr<CudaLayer> Layer(int64_t i) {
    const LayerWeights* from = weights_ == nullptr ? nullptr : &weights_->layers[i];
    CudaLayer to;
    to.attention_norm = Norm(config_.hidden_size, from == nullptr ? nullptr : &from->attn_norm);
    to.ffn_norm = Norm(config_.hidden_size, from == nullptr ? nullptr : &from->ffn_norm);
    TANDEM_RETURN_IF_ERROR(Attention(i, from == nullptr ? nullptr : &from->attention, to));
    if (!config_.IsMoeLayer(i)) {
      TANDEM_ASSIGN_OR_RETURN(
          to.dense, Ffn({R::kDenseGate, R::kDenseUp, R::kDenseDown}, i, config_.intermediate_size,
                        from == nullptr ? nullptr : &*from->dense));
      return to;
    }
    if (config_.n_shared_experts > 0) {
      TANDEM_ASSIGN_OR_RETURN(to.shared,
                              Ffn({R::kSharedGate, R::kSharedUp, R::kSharedDown}, i,
                                  config_.n_shared_experts * config_.moe_intermediate_size,
                                  from == nullptr ? nullptr : &*from->shared));
    }
    if (rank_ > 0) return to;  // the first rank chooses experts
    TANDEM_ASSIGN_OR_RETURN(
        to.router,
        Place(kF32Format, config_.n_routed_experts, config_.hidden_size, 1, [&](int64_t) {
          return Pack(kF32Format, config_.n_routed_experts, config_.hidden_size,
                      [&](int64_t r, float* dst) { return ReadFiniteRow(*from->router, r, dst); });
        }));
    if (config_.topk_method == TopkMethod::kNoAuxTc) {
      to.router_bias =
          Vector(config_.n_routed_experts,
                 from == nullptr ? std::vector<float>() : ReadValues(*from->router_bias));
    }
    return to;
  }

  absl::Status Attention(int64_t i, const AttentionWeights* from, CudaLayer& to) {
    const int64_t hidden = config_.hidden_size, heads = config_.num_attention_heads;
    const int64_t queries = heads * config_.qk_head_dim();
    const auto matrix = [](const std::optional<Matrix>& m) {
      return m.has_value() ? &*m : nullptr;
    };
    const bool q_lora = config_.q_lora_rank > 0;
    const R q_role = q_lora ? R::kQA : R::kQ;
    const Split q =
        plan_.SplitOf(q_role, q_lora ? config_.q_lora_rank : queries, NeedsOf(q_role, i));
    const Split kv_a = plan_.SplitOf(R::kKvA, config_.kv_row_dim(), NeedsOf(R::kKvA, i));
    const Matrix* const q_matrix = from == nullptr ? nullptr : matrix(q_lora ? from->q_a : from->q);
    TANDEM_ASSIGN_OR_RETURN(to.q_kv_a,
                            Pair(i, hidden, {q_role, q, q_matrix},
                                 {R::kKvA, kv_a, from == nullptr ? nullptr : &from->kv_a}));
    if (q_lora) {
      to.q_a_norm = Norm(config_.q_lora_rank, from == nullptr ? nullptr : &*from->q_a_norm);
      TANDEM_ASSIGN_OR_RETURN(to.q_b, Linear(R::kQB, i, queries, config_.q_lora_rank,
                                             from == nullptr ? nullptr : matrix(from->q_b)));
    }
    to.kv_a_norm = Norm(config_.kv_lora_rank, from == nullptr ? nullptr : &from->kv_a_norm);
    TANDEM_RETURN_IF_ERROR(Heads(from, to));
    TANDEM_ASSIGN_OR_RETURN(to.o, Linear(R::kO, i, hidden, heads * config_.v_head_dim,
                                         from == nullptr ? nullptr : &from->o, &to.o_split));
    return absl::OkStatus();
  }

  // The projections of single heads stay in bf16 (or f32) whatever the format of the rest: absorbed
  // products in 8 or 4 bits cost answers (docs/formats.md).
  absl::Status Heads(const AttentionWeights* from, CudaLayer& to) {
    const WeightFormat format = {formats_.precision == Precision::kF32 ? WeightKind::kF32
                                                                       : WeightKind::kBf16};
    const ShardRange own = plan_.heads().of(rank_);
    const int64_t heads = own.size(), latent = config_.kv_lora_rank;
    const int64_t nope = config_.qk_nope_head_dim, v = config_.v_head_dim;
    const bool flash = formats_.attention == AttentionKernel::kFlash;
    if (flash) {
      TANDEM_ASSIGN_OR_RETURN(to.absorb, Place(format, latent, nope, heads, [&](int64_t h) {
                                return PackHead(format, ReadHeadKeys(config_, *from, own.begin + h),
                                                nope, latent,
                                                /*transposed=*/true);
                              }));
    }
    if (!flash || formats_.prefill_unabsorbed) {
      TANDEM_ASSIGN_OR_RETURN(to.key_up, Place(format, nope, latent, heads, [&](int64_t h) {
                                return PackHead(format, ReadHeadKeys(config_, *from, own.begin + h),
                                                nope, latent,
                                                /*transposed=*/false);
                              }));
    }
    TANDEM_ASSIGN_OR_RETURN(to.value_up, Place(format, v, latent, heads, [&](int64_t h) {
                              return PackHead(format, ReadHeadValues(config_, *from, own.begin + h),
                                              v, latent, false);
                            }));
    for (DeviceMatrix* w : {&to.absorb, &to.key_up, &to.value_up}) {
      w->whole_batch = plan_.heads().total();
    }
    return absl::OkStatus();
  }

  absl::StatusOr<PackedMatrix> PackHead(const WeightFormat& format,
                                        const std::vector<float>& values, int64_t rows,
                                        int64_t cols, bool transposed) const {
    if (!transposed) {
      return PackMatrix(format, rows, cols, [&](int64_t r, float* dst) {
        std::copy_n(values.data() + r * cols, cols, dst);
      });
    }
    return PackMatrix(format, cols, rows, [&](int64_t c, float* dst) {
      for (int64_t r = 0; r < rows; ++r) dst[r] = values[r * cols + c];
    });
  }

  const ModelConfig& config_;
  const CudaFormats& formats_;
  const ShardPlan& plan_;
  const int rank_;
  const ModelWeights* const weights_;  // null: count only
  base::ThreadPool* const pool_;
  const Stream stream_;
  DeviceArena& arena_;
};

}  // namespace

absl::StatusOr<WeightFormat> DeviceFormat(const LinearFormat& format, Precision precision) {
  if (precision == Precision::kF32) {
    if (format.kernel == LinearKernel::kNative) return kF32Format;
    return absl::InvalidArgumentError(absl::StrCat("linear layers in format ", NameOf(format),
                                                   " need precision bf16, found f32"));
  }
  switch (format.kernel) {
    case LinearKernel::kNative:
      return WeightFormat{WeightKind::kBf16};
    case LinearKernel::kFp8:
      return WeightFormat{WeightKind::kFp8};
    case LinearKernel::kMarlin8:
      return WeightFormat{WeightKind::kInt8, format.group};
    case LinearKernel::kMarlin4:
      return WeightFormat{WeightKind::kInt4, format.group};
    case LinearKernel::kOneDnn:
    case LinearKernel::kStored:
      break;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("expected linear layers native, fp8, marlin8 or marlin4 with --backend cuda, "
                   "found ",
                   NameOf(format)));
}

absl::StatusOr<CudaWeights> CudaWeightShapes(const ModelConfig& config, const CudaFormats& formats,
                                             const CudaShard& shard) {
  DeviceArena count;
  return WeightWalk(config, formats, shard, nullptr, nullptr, nullptr, count).Run();
}

absl::StatusOr<CudaWeights> LoadCudaWeights(const ModelWeights& weights, const CudaFormats& formats,
                                            const CudaShard& shard, base::ThreadPool& pool,
                                            Stream stream) {
  DeviceArena count;
  WeightWalk counting(weights.config, formats, shard, nullptr, nullptr, nullptr, count);
  TANDEM_RETURN_IF_ERROR(counting.Run().status());
  TANDEM_ASSIGN_OR_RETURN(DeviceArena arena, DeviceArena::Like(count));
  WeightWalk walk(weights.config, formats, shard, &weights, &pool, stream, arena);
  TANDEM_ASSIGN_OR_RETURN(CudaWeights loaded, walk.Run());
  loaded.memory = std::move(arena).Release();
  return loaded;
}

}  // namespace tandem::gpu_worker::cuda
