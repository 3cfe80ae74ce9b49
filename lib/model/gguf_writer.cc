#include "lib/model/gguf_writer.h"

#include <bit>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/tensor/tensor_view.h"

namespace tandem {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is written little-endian");

constexpr uint32_t kVersion = 3;
constexpr int64_t kAlignmentBytes = 32;
constexpr size_t kNameBytesMax = 63;  // ggml keeps names in 64 bytes with their end
constexpr size_t kDimensionsMax = 4;

enum ValueType : uint32_t { kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9 };

// ggml's ids of tensor types.
std::optional<uint32_t> GgmlType(DType type) {
  switch (type) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return 1;
    case DType::kQ4_0:
      return 2;
    case DType::kQ4_1:
      return 3;
    case DType::kQ5_0:
      return 6;
    case DType::kQ5_1:
      return 7;
    case DType::kQ8_0:
      return 8;
    case DType::kQ2_K:
      return 10;
    case DType::kQ3_K:
      return 11;
    case DType::kQ4_K:
      return 12;
    case DType::kQ5_K:
      return 13;
    case DType::kQ6_K:
      return 14;
    case DType::kIQ2_XXS:
      return 16;
    case DType::kIQ2_XS:
      return 17;
    case DType::kIQ3_XXS:
      return 18;
    case DType::kIQ1_S:
      return 19;
    case DType::kIQ4_NL:
      return 20;
    case DType::kIQ3_S:
      return 21;
    case DType::kIQ2_S:
      return 22;
    case DType::kIQ4_XS:
      return 23;
    case DType::kI32:
      return 26;
    case DType::kIQ1_M:
      return 29;
    case DType::kBF16:
      return 30;
    case DType::kF8E4M3:
    case DType::kCount:
      break;
  }
  return std::nullopt;
}

// Appends little-endian values to a header.
class HeaderBytes {
 public:
  template <typename T>
  void Add(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void AddString(const std::string& text) {
    Add<uint64_t>(text.size());
    bytes_ += text;
  }
  void AddValue(const GgufValue& value) {
    std::visit([this](const auto& v) { AddTyped(v); }, value);
  }
  std::string& bytes() { return bytes_; }

 private:
  void AddTyped(uint32_t v) { Add<uint32_t>(kU32), Add(v); }
  void AddTyped(int32_t v) { Add<uint32_t>(kI32), Add(v); }
  void AddTyped(float v) { Add<uint32_t>(kF32), Add(v); }
  void AddTyped(bool v) { Add<uint32_t>(kBool), Add<uint8_t>(v ? 1 : 0); }
  void AddTyped(const std::string& v) { Add<uint32_t>(kString), AddString(v); }
  void AddTyped(const std::vector<int32_t>& v) {
    AddArrayHead(kI32, v.size());
    for (const int32_t x : v) Add(x);
  }
  void AddTyped(const std::vector<float>& v) {
    AddArrayHead(kF32, v.size());
    for (const float x : v) Add(x);
  }
  void AddTyped(const std::vector<std::string>& v) {
    AddArrayHead(kString, v.size());
    for (const std::string& x : v) AddString(x);
  }
  void AddArrayHead(ValueType element, uint64_t count) {
    Add<uint32_t>(kArray), Add<uint32_t>(element), Add(count);
  }

  std::string bytes_;
};

int64_t PaddedTo(int64_t bytes) {
  return (bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
}

absl::Status AddTensorInfo(const TensorPlan& tensor, int64_t offset_bytes, HeaderBytes& out) {
  const std::optional<uint32_t> type = GgmlType(tensor.dtype);
  if (!type.has_value())
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", tensor.name, ": GGUF has no type for ", NameOf(tensor.dtype)));
  if (tensor.name.size() > kNameBytesMax)
    return absl::InvalidArgumentError(absl::StrCat("tensor name ", tensor.name,
                                                   " must have at most ", kNameBytesMax,
                                                   " bytes for GGUF, found ", tensor.name.size()));
  if (tensor.shape.empty() || tensor.shape.size() > kDimensionsMax)
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", tensor.name, " must have 1 to 4 dimensions, found ", tensor.shape.size()));
  out.AddString(tensor.name);
  out.Add<uint32_t>(tensor.shape.size());
  for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size)
    out.Add<uint64_t>(*size);
  out.Add<uint32_t>(*type);
  out.Add<uint64_t>(offset_bytes);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<FileLayout> LayOutGguf(const GgufKeyValues& key_values,
                                      const std::vector<TensorPlan>& tensors) {
  FileLayout layout;
  layout.alignment_bytes = kAlignmentBytes;
  HeaderBytes out;
  out.bytes() = "GGUF";
  out.Add(kVersion);
  out.Add<uint64_t>(tensors.size());
  out.Add<uint64_t>(key_values.size());
  for (const auto& [key, value] : key_values) {
    out.AddString(key);
    out.AddValue(value);
  }
  int64_t offset_bytes = 0;
  for (const TensorPlan& tensor : tensors) {
    TANDEM_RETURN_IF_ERROR(AddTensorInfo(tensor, offset_bytes, out));
    TANDEM_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(tensor.dtype, tensor.shape));
    layout.tensor_bytes.push_back(bytes);
    offset_bytes += PaddedTo(bytes);
  }
  out.bytes().resize(PaddedTo(static_cast<int64_t>(out.bytes().size())));
  layout.header = std::move(out.bytes());
  layout.file_bytes = static_cast<int64_t>(layout.header.size()) + offset_bytes;
  return layout;
}

}  // namespace tandem
