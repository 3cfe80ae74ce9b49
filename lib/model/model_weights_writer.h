// WeightFileWriter: writes a weight file of any size from front to back. The container's code lays
// the file out first (gguf_writer, safetensors_writer); then tensors' bytes are streamed in that
// order, so nothing larger than a caller's chunk is ever in memory. The file appears under its name
// only when complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lib/tensor/dtype.h"

namespace tandem {

struct TensorPlan {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // outermost first
};

struct FileLayout {
  std::string header;  // everything before the first tensor's first byte, padding included
  std::vector<int64_t> tensor_bytes;  // in writing order
  int64_t alignment_bytes = 1;        // each tensor is followed by zeros up to this multiple
  int64_t file_bytes = 0;
};

class WeightFileWriter {
 public:
  // Writes to `path` + ".partial". ALREADY_EXISTS when `path` exists and not `overwrite`;
  // RESOURCE_EXHAUSTED with needed and free bytes when the file system has too little room.
  static absl::StatusOr<WeightFileWriter> Create(const std::string& path, FileLayout layout,
                                                 bool overwrite);

  WeightFileWriter(WeightFileWriter&& other) noexcept;
  WeightFileWriter& operator=(WeightFileWriter&&) = delete;
  WeightFileWriter(const WeightFileWriter&) = delete;
  // Removes the partial file unless Finish succeeded.
  ~WeightFileWriter();

  // The next bytes of the current tensor, then of the next one; a call must not cross into the
  // following tensor.
  absl::Status Append(std::span<const std::byte> bytes);
  // CHECKs that every tensor is complete, then gives the file its name.
  absl::Status Finish();

 private:
  WeightFileWriter(std::string path, FileLayout layout, int fd);
  absl::Status WriteAll(std::span<const std::byte> bytes);
  absl::Status CloseTensor();

  std::string path_;
  FileLayout layout_;
  int fd_ = -1;
  size_t tensor_ = 0;
  int64_t written_of_tensor_ = 0;
};

}  // namespace tandem
