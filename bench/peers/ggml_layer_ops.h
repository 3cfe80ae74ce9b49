// The expert layer as each engine builds it from its own operations, and where each keeps weights.
// llama.cpp: separate products, swiglu, a chain of additions. ik_llama.cpp: gate, up and SiLU in
// one operation, weighting and addition in another.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <string>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"
#if GGML_IS_IK
extern "C" void iqk_repack_tensor(ggml_tensor* tensor);
#else
#include "ggml-cpu.h"
#endif

namespace tandem::bench {

struct Layer {
  ggml_tensor* gate = nullptr;  // [hidden, inter, experts], fastest first as ggml writes shapes
  ggml_tensor* up = nullptr;
  ggml_tensor* down = nullptr;  // [inter, hidden, experts]
};

#if GGML_IS_IK

inline constexpr char kEngine[] = "ik_llama.cpp";

inline ggml_tensor* Activated(ggml_context* ctx, const Layer& layer, ggml_tensor* x,
                              ggml_tensor* ids) {
  return ggml_moe_up_gate(ctx, layer.up, layer.gate, x, ids, GGML_UNARY_OP_SILU);
}

inline ggml_tensor* WeightedSum(ggml_context* ctx, ggml_tensor* outputs, ggml_tensor* weights) {
  return ggml_mul_multi_add(ctx, outputs, weights);
}

// Repacks in place, as the engine's own loader does. Empty when done, else why not.
inline std::string RepackInPlace(const Layer& layer) {
  std::string kept;
  for (ggml_tensor* tensor : {layer.gate, layer.up, layer.down}) {
    const ggml_type stored = tensor->type;
    iqk_repack_tensor(tensor);
    if (tensor->type == stored) kept = ggml_type_name(stored);
  }
  return kept.empty() ? "" : "run-time repack has no form of " + kept;
}

#else

inline constexpr char kEngine[] = "llama.cpp";

inline ggml_tensor* Activated(ggml_context* ctx, const Layer& layer, ggml_tensor* x,
                              ggml_tensor* ids) {
  ggml_tensor* up = ggml_mul_mat_id(ctx, layer.up, x, ids);
  ggml_tensor* gate = ggml_mul_mat_id(ctx, layer.gate, x, ids);
  return ggml_swiglu_split(ctx, gate, up);
}

inline ggml_tensor* WeightedSum(ggml_context* ctx, ggml_tensor* outputs, ggml_tensor* weights) {
  outputs = ggml_mul(ctx, outputs, weights);
  ggml_tensor* sum = nullptr;
  for (int64_t k = 0; k < outputs->ne[1]; ++k) {
    ggml_tensor* one = ggml_view_2d(ctx, outputs, outputs->ne[0], outputs->ne[2], outputs->nb[2],
                                    k * outputs->nb[1]);
    sum = sum == nullptr ? one : ggml_add(ctx, sum, one);
  }
  return sum;
}

// Buffer types in which the engine keeps weights in forms of its own: AMX tiles, repacked rows.
inline std::vector<ggml_backend_buffer_type_t> OwnFormBuffers() {
  std::vector<ggml_backend_buffer_type_t> found;
  ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  auto list =
      reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(
          ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts"));
  if (list == nullptr) return found;
  for (ggml_backend_buffer_type_t* each = list(device); each != nullptr && *each != nullptr; ++each)
    found.push_back(*each);
  return found;
}

// Whether products by expert can be computed from weights of this shape in that kind of buffer.
inline bool SupportsById(ggml_backend_buffer_type_t type, const ggml_tensor* weights) {
  ggml_context* ctx = ggml_init({1 << 20, nullptr, /*no_alloc=*/true});
  ggml_tensor* copy = ggml_new_tensor(ctx, weights->type, 3, weights->ne);
  ggml_tensor* x = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, weights->ne[0], 1, 1);
  ggml_tensor* ids = ggml_new_tensor_2d(ctx, GGML_TYPE_I32, 1, 1);
  ggml_tensor* product = ggml_mul_mat_id(ctx, copy, x, ids);
  // A buffer of no size stands for its kind.
  copy->buffer = ggml_backend_buft_alloc_buffer(type, 0);
  const bool supported =
      ggml_backend_dev_supports_op(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU), product);
  ggml_backend_buffer_free(copy->buffer);
  ggml_free(ctx);
  return supported;
}

#endif

// Memory on huge pages: a favour to the engine, which by itself would take small ones.
inline void* HugePages(size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  void* mapping =
      mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  const uintptr_t address = reinterpret_cast<uintptr_t>(mapping);
  void* start = reinterpret_cast<void*>((address + kHugePage - 1) / kHugePage * kHugePage);
  madvise(start, bytes, MADV_HUGEPAGE);
  return start;
}

}  // namespace tandem::bench
