#include "lib/model/safetensors_writer.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/tensor/tensor_view.h"
#include "nlohmann/json.hpp"

namespace tandem {
namespace {

// Null when safetensors has no such type.
const char* SafetensorsType(DType type) {
  switch (type) {
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
    case DType::kF8E4M3:
      return "F8_E4M3";
    case DType::kI32:
      return "I32";
    default:
      return nullptr;
  }
}

}  // namespace

absl::StatusOr<FileLayout> LayOutSafetensors(const std::map<std::string, std::string>& metadata,
                                             const std::vector<TensorPlan>& tensors) {
  FileLayout layout;
  nlohmann::json infos = nlohmann::json::object();
  if (!metadata.empty()) infos["__metadata__"] = metadata;
  int64_t begin = 0;
  for (const TensorPlan& tensor : tensors) {
    const char* type = SafetensorsType(tensor.dtype);
    if (type == nullptr)
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", tensor.name, ": safetensors has no type for ",
                       NameOf(tensor.dtype), ", expected f32, f16, bf16 or f8_e4m3"));
    TANDEM_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(tensor.dtype, tensor.shape));
    infos[tensor.name] = {
        {"dtype", type}, {"shape", tensor.shape}, {"data_offsets", {begin, begin + bytes}}};
    layout.tensor_bytes.push_back(bytes);
    begin += bytes;
  }
  std::string header = infos.dump();
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t header_bytes = header.size();
  layout.header.assign(reinterpret_cast<const char*>(&header_bytes), sizeof(header_bytes));
  layout.header += header;
  layout.file_bytes = static_cast<int64_t>(layout.header.size()) + begin;
  return layout;
}

}  // namespace tandem
