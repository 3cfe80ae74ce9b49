// DeviceExperts: routed experts in a GPU's memory, computed there with the bits that ExpertFfn
// gives on any processor. Weights are the packed panels of lib/kernels as they are; a batch is one
// copy there, five launches whatever number of experts it names, and one copy back, on a stream of
// its own beside the backend's.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/cuda/device_arena.h"
#include "gpu_worker/backend/cuda/kernels/experts/experts.h"
#include "gpu_worker/experts/expert_backend.h"
#include "lib/experts/row_groups.h"

namespace tandem::gpu_worker::cuda {

struct DeviceExpertsOptions {
  int device = 0;
  int64_t hidden = 0, inter = 0;  // of every expert
  int64_t rows_max = 512;         // of one batch
  // (row, expert) pairs computed at a time, at least one: 512 rows with eight experts each take
  // two turns, and the outputs of 2048 pairs 34 MB in DeepSeek-V3.
  int64_t pairs_max = 2048;
};

class DeviceExperts : public ExpertBackend {
 public:
  // Allocates what batches need beside the weights. NOT_FOUND where there is no such device,
  // RESOURCE_EXHAUSTED where it has no room.
  static absl::StatusOr<std::unique_ptr<DeviceExperts>> Make(const DeviceExpertsOptions& options);

  absl::Status Reserve(int64_t bytes, int64_t experts) override;
  absl::Status Hold(uint32_t layer, uint32_t expert, const PackedExpert& packed) override;
  int64_t rows_max() const override { return options_.rows_max; }
  void Run(const FfnBatch& batch, uint32_t layer) override;

 private:
  // Tiles of matrices of one type: one launch.
  struct Products {
    kernels::PackedLayout layout;
    std::vector<ProductTile> tiles;
    uint32_t rows_max = 0;
  };
  // Pairs computed together, by expert.
  struct Pass {
    std::vector<int64_t> pairs;  // of the batch
    std::vector<Products> gate_up, down;
  };
  // Lists of a pass, in pinned memory and at the same offsets on the device.
  struct Lists {
    float* inverse_steps = nullptr;  // [rows]
    uint32_t* x_row = nullptr;       // [pairs], like the next two
    uint32_t* to = nullptr;
    float* weights = nullptr;
    ProductTile* tiles = nullptr;  // [3 pairs] at most
  };
  // Rows in every form some matrix wants.
  struct Forms {
    std::byte* quantized = nullptr;
    float* floats = nullptr;
  };
  struct Scratch {
    void* x = nullptr;                     // [rows_max, hidden] bf16 or f32
    Forms x_forms;                         // [rows_max]
    float *gate = nullptr, *up = nullptr;  // [pairs_max, inter]
    Forms h_forms;                         // [pairs_max]
    // [rows_max, hidden] int32 sums, or f32 outputs of as many pairs; then [rows_max] flags.
    std::byte* answer = nullptr;
    std::byte* lists = nullptr;
  };

  explicit DeviceExperts(const DeviceExpertsOptions& options);
  absl::Status Allocate();
  void Place(DeviceArena* arena);
  static Lists ListsAt(std::byte* begin, size_t rows, size_t pairs);
  static size_t ListBytes(size_t rows, size_t pairs);
  int64_t pairs_max(const FfnBatch& batch) const;

  // Rows in the forms that any pass reads.
  void UploadRows(const FfnBatch& batch, const std::vector<Pass>& passes);
  static void AddForms(const FfnBatch& batch, const std::vector<Products>& products,
                       const Forms& all, ExpertRowForms* out);
  Pass PassOf(const FfnBatch& batch, uint32_t layer, const std::vector<ExpertGroup>& groups) const;
  void UploadLists(const FfnBatch& batch, const Pass& pass);
  void LaunchPass(const FfnBatch& batch, const Pass& pass);
  void LaunchProducts(const std::vector<Products>& products, const Forms& x,
                      ExpertProductsArgs args, const ProductTile** tiles);
  void FetchPairs(const FfnBatch& batch, const Pass& pass);
  void FetchSums(const FfnBatch& batch);

  const DeviceExpertsOptions options_;
  const OwnedStream stream_;
  DeviceMemory scratch_memory_, weights_;
  PinnedMemory host_x_, host_answer_, host_lists_;
  Scratch scratch_;
  size_t weights_used_ = 0;
  std::map<std::pair<uint32_t, uint32_t>, PackedExpert> experts_;  // their data: on the device
};

}  // namespace tandem::gpu_worker::cuda
