#include "lib/model/gguf_file.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/model/byte_cursor.h"
#include "lib/model/printable_name.h"

namespace tandem {
namespace {

// Bounds far above every published model, far below what could hurt. Old DeepSeek-V3 files with one
// tensor per expert and matrix have 58 * 256 * 3 = 44544 of them.
constexpr uint64_t kKeysMax = 65536;
constexpr uint64_t kTensorsMax = 65536;
constexpr uint64_t kKeyBytesMax = 65535;  // GGUF specification
constexpr uint64_t kNameBytesMax = 63;    // llama.cpp keeps names in 64 bytes with their NUL
constexpr uint32_t kDimensionsMax = 4;
constexpr uint64_t kDimensionMax = uint64_t{1} << 40;
constexpr uint32_t kAlignmentDefault = 32;
constexpr uint32_t kAlignmentMin = 8;
constexpr uint32_t kAlignmentMax = 1 << 20;
// u64 length, one byte of key, u32 type, one byte of value.
constexpr uint64_t kKeyValueBytesMin = 8 + 1 + 4 + 1;
// u64 length, one byte of name, u32 count, one u64 dimension, u32 type, u64 offset.
constexpr uint64_t kTensorInfoBytesMin = 8 + 1 + 4 + 8 + 4 + 8;

enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

// The tensor types of ggml by id. Those without a DType are known by name only, to be refused by
// it.
struct GgmlType {
  uint32_t id;
  const char* name;
  std::optional<DType> dtype;
};
constexpr std::array<GgmlType, 34> kGgmlTypes = {{
    {0, "f32", DType::kF32},
    {1, "f16", DType::kF16},
    {2, "q4_0", DType::kQ4_0},
    {3, "q4_1", DType::kQ4_1},
    {6, "q5_0", DType::kQ5_0},
    {7, "q5_1", DType::kQ5_1},
    {8, "q8_0", DType::kQ8_0},
    {9, "q8_1", {}},
    {10, "q2_K", DType::kQ2_K},
    {11, "q3_K", DType::kQ3_K},
    {12, "q4_K", DType::kQ4_K},
    {13, "q5_K", DType::kQ5_K},
    {14, "q6_K", DType::kQ6_K},
    {15, "q8_K", {}},
    {16, "iq2_xxs", DType::kIQ2_XXS},
    {17, "iq2_xs", DType::kIQ2_XS},
    {18, "iq3_xxs", DType::kIQ3_XXS},
    {19, "iq1_s", DType::kIQ1_S},
    {20, "iq4_nl", DType::kIQ4_NL},
    {21, "iq3_s", DType::kIQ3_S},
    {22, "iq2_s", DType::kIQ2_S},
    {23, "iq4_xs", DType::kIQ4_XS},
    {24, "i8", {}},
    {25, "i16", {}},
    {26, "i32", DType::kI32},
    {27, "i64", {}},
    {28, "f64", {}},
    {29, "iq1_m", DType::kIQ1_M},
    {30, "bf16", DType::kBF16},
    {34, "tq1_0", {}},
    {35, "tq2_0", {}},
    {39, "mxfp4", {}},
    {40, "nvfp4", {}},
    {41, "q1_0", {}},
}};

struct TensorInfo {
  TensorView view;  // without data
  uint64_t offset = 0;
};

// One parse; holds what every message needs.
class Parser {
 public:
  Parser(std::span<const std::byte> bytes, const std::string& file)
      : bytes_(bytes), file_(file), cursor_(bytes) {}

  absl::StatusOr<GgufFile> Parse();

 private:
  absl::Status ReadHeader();
  absl::Status CheckCounts() const;
  absl::Status ReadKeyValue();
  absl::Status ReadKey(std::string* key);
  absl::StatusOr<MetadataValue> ReadValue(uint32_t type);
  absl::StatusOr<MetadataValue> ReadArray();
  absl::StatusOr<MetadataValue> ReadStrings(uint64_t count);
  absl::StatusOr<MetadataValue> ReadBools(uint64_t count);
  template <typename Stored, typename Wide>
  absl::StatusOr<MetadataValue> ReadNumbers(uint64_t count);
  template <typename Stored, typename Wide>
  absl::StatusOr<MetadataValue> ReadNumber();
  absl::Status ReadAlignment();
  absl::StatusOr<TensorInfo> ReadTensorInfo();
  absl::Status ReadShape(TensorInfo* info);
  absl::Status ReadType(TensorInfo* info);
  absl::Status PlaceTensors(std::vector<TensorInfo> infos);
  absl::Status CheckOverlap() const;

  // "file: what"; the cut-off ones say where the file ends.
  absl::Status Invalid(const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ": ", what));
  }
  absl::Status CutOff(const std::string& what) const {
    return absl::DataLossError(absl::StrCat(file_, ": expected ", what,
                                            ", found the end of the file at byte ", bytes_.size()));
  }
  std::string KeyText() const { return absl::StrCat("metadata key ", PrintableName(key_)); }

  std::span<const std::byte> bytes_;
  const std::string& file_;
  ByteCursor cursor_;
  uint64_t tensor_count_ = 0;
  uint64_t key_count_ = 0;
  uint64_t alignment_ = kAlignmentDefault;
  std::string key_;  // being read
  GgufFile result_;
};

absl::StatusOr<GgufFile> Parser::Parse() {
  TANDEM_RETURN_IF_ERROR(ReadHeader());
  TANDEM_RETURN_IF_ERROR(CheckCounts());
  for (uint64_t i = 0; i < key_count_; ++i) TANDEM_RETURN_IF_ERROR(ReadKeyValue());
  TANDEM_RETURN_IF_ERROR(ReadAlignment());
  std::vector<TensorInfo> infos;
  absl::flat_hash_set<std::string> names;
  for (uint64_t i = 0; i < tensor_count_; ++i) {
    TANDEM_ASSIGN_OR_RETURN(TensorInfo info, ReadTensorInfo());
    if (!names.insert(info.view.name).second) {
      return Invalid(absl::StrCat("expected distinct tensor names, found ",
                                  PrintableName(info.view.name), " twice"));
    }
    infos.push_back(std::move(info));
  }
  TANDEM_RETURN_IF_ERROR(PlaceTensors(std::move(infos)));
  TANDEM_RETURN_IF_ERROR(CheckOverlap());
  return std::move(result_);
}

absl::Status Parser::ReadHeader() {
  std::string_view magic;
  if (!cursor_.ReadBytes(4, &magic)) return CutOff("the magic bytes 'GGUF'");
  if (magic != "GGUF") {
    return Invalid(absl::StrCat("expected the magic bytes 'GGUF', found ", PrintableName(magic)));
  }
  if (!cursor_.Read(&result_.version)) return CutOff("a version number");
  const uint32_t version = result_.version;
  if (version != 2 && version != 3) {
    // A big-endian file holds 0x00000003, which reads as 0x03000000.
    const bool swapped = version != 0 && (version & 0xFFFF) == 0;
    return absl::UnimplementedError(
        absl::StrCat(file_, ": expected GGUF version 2 or 3, found ",
                     swapped ? "a big-endian file, version number " : "", version));
  }
  if (!cursor_.Read(&tensor_count_) || !cursor_.Read(&key_count_))
    return CutOff("tensor and key counts");
  return absl::OkStatus();
}

absl::Status Parser::CheckCounts() const {
  if (key_count_ > kKeysMax) {
    return Invalid(
        absl::StrCat("expected at most ", kKeysMax, " metadata keys, found ", key_count_));
  }
  if (tensor_count_ > kTensorsMax) {
    return Invalid(
        absl::StrCat("expected at most ", kTensorsMax, " tensors, found ", tensor_count_));
  }
  const uint64_t needed = key_count_ * kKeyValueBytesMin + tensor_count_ * kTensorInfoBytesMin;
  if (needed > cursor_.remaining()) {
    return CutOff(absl::StrCat(key_count_, " metadata keys and ", tensor_count_,
                               " tensors (at least ", needed, " bytes)"));
  }
  return absl::OkStatus();
}

absl::Status Parser::ReadKey(std::string* key) {
  uint64_t length = 0;
  if (!cursor_.Read(&length))
    return CutOff(absl::StrCat("the metadata key after ", PrintableName(key_)));
  if (length == 0 || length > kKeyBytesMax) {
    return Invalid(absl::StrCat("expected a metadata key of 1 to ", kKeyBytesMax, " bytes after ",
                                PrintableName(key_), ", found ", length));
  }
  std::string_view text;
  if (!cursor_.ReadBytes(length, &text))
    return CutOff(absl::StrCat("a metadata key of ", length, " bytes"));
  key->assign(text);
  return absl::OkStatus();
}

absl::Status Parser::ReadKeyValue() {
  std::string key;
  TANDEM_RETURN_IF_ERROR(ReadKey(&key));
  key_ = key;
  if (result_.metadata.Has(key)) {
    return Invalid(
        absl::StrCat("expected distinct metadata keys, found ", PrintableName(key), " twice"));
  }
  uint32_t type = 0;
  if (!cursor_.Read(&type)) return CutOff(absl::StrCat("the type of ", KeyText()));
  absl::StatusOr<MetadataValue> value = type == kArray ? ReadArray() : ReadValue(type);
  if (!value.ok()) return value.status();
  result_.metadata.Set(std::move(key), *std::move(value));
  return absl::OkStatus();
}

template <typename Stored, typename Wide>
absl::StatusOr<MetadataValue> Parser::ReadNumber() {
  Stored stored;
  if (!cursor_.Read(&stored)) return CutOff(absl::StrCat("the value of ", KeyText()));
  return MetadataValue(static_cast<Wide>(stored));
}

template <typename Stored, typename Wide>
absl::StatusOr<MetadataValue> Parser::ReadNumbers(uint64_t count) {
  std::string_view raw;
  if (count > cursor_.remaining() / sizeof(Stored) ||
      !cursor_.ReadBytes(count * sizeof(Stored), &raw)) {
    return CutOff(absl::StrCat(count, " numbers in ", KeyText()));
  }
  std::vector<Wide> values(count);
  for (uint64_t i = 0; i < count; ++i) {
    Stored stored;
    std::memcpy(&stored, raw.data() + i * sizeof(Stored), sizeof(Stored));
    if constexpr (std::is_same_v<Stored, uint64_t>) {
      if (stored > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Invalid(absl::StrCat(KeyText(), ": expected integers below 2^63, found ", stored));
      }
    }
    values[i] = static_cast<Wide>(stored);
  }
  return MetadataValue(std::move(values));
}

absl::StatusOr<MetadataValue> Parser::ReadStrings(uint64_t count) {
  if (count > cursor_.remaining() / sizeof(uint64_t)) {
    return CutOff(absl::StrCat(count, " strings in ", KeyText()));
  }
  std::vector<std::string> values;
  values.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    uint64_t length = 0;
    std::string_view text;
    if (!cursor_.Read(&length) || !cursor_.ReadBytes(length, &text)) {
      return CutOff(absl::StrCat("string ", i, " of ", count, " in ", KeyText()));
    }
    values.emplace_back(text);
  }
  return MetadataValue(std::move(values));
}

absl::StatusOr<MetadataValue> Parser::ReadBools(uint64_t count) {
  std::string_view raw;
  if (!cursor_.ReadBytes(count, &raw)) return CutOff(absl::StrCat(count, " bools in ", KeyText()));
  std::vector<bool> values(count);
  for (uint64_t i = 0; i < count; ++i) {
    const auto byte = static_cast<uint8_t>(raw[i]);
    if (byte > 1)
      return Invalid(absl::StrCat(KeyText(), ": expected a bool, 0 or 1, found ", byte));
    values[i] = byte == 1;
  }
  return MetadataValue(std::move(values));
}

absl::StatusOr<MetadataValue> Parser::ReadArray() {
  uint32_t type = 0;
  uint64_t count = 0;
  if (!cursor_.Read(&type) || !cursor_.Read(&count))
    return CutOff(absl::StrCat("the array of ", KeyText()));
  switch (type) {
    case kUint8:
      return ReadNumbers<uint8_t, int64_t>(count);
    case kInt8:
      return ReadNumbers<int8_t, int64_t>(count);
    case kUint16:
      return ReadNumbers<uint16_t, int64_t>(count);
    case kInt16:
      return ReadNumbers<int16_t, int64_t>(count);
    case kUint32:
      return ReadNumbers<uint32_t, int64_t>(count);
    case kInt32:
      return ReadNumbers<int32_t, int64_t>(count);
    case kUint64:
      return ReadNumbers<uint64_t, int64_t>(count);
    case kInt64:
      return ReadNumbers<int64_t, int64_t>(count);
    case kFloat32:
      return ReadNumbers<float, double>(count);
    case kFloat64:
      return ReadNumbers<double, double>(count);
    case kBool:
      return ReadBools(count);
    case kString:
      return ReadStrings(count);
    case kArray:
      return absl::UnimplementedError(absl::StrCat(
          file_, ": ", KeyText(), ": expected an array of plain values, found an array of arrays"));
    default:
      return Invalid(
          absl::StrCat(KeyText(), ": expected an element type of 0 to 12, found ", type));
  }
}

absl::StatusOr<MetadataValue> Parser::ReadValue(uint32_t type) {
  switch (type) {
    case kUint8:
      return ReadNumber<uint8_t, uint64_t>();
    case kInt8:
      return ReadNumber<int8_t, int64_t>();
    case kUint16:
      return ReadNumber<uint16_t, uint64_t>();
    case kInt16:
      return ReadNumber<int16_t, int64_t>();
    case kUint32:
      return ReadNumber<uint32_t, uint64_t>();
    case kInt32:
      return ReadNumber<int32_t, int64_t>();
    case kUint64:
      return ReadNumber<uint64_t, uint64_t>();
    case kInt64:
      return ReadNumber<int64_t, int64_t>();
    case kFloat32:
      return ReadNumber<float, double>();
    case kFloat64:
      return ReadNumber<double, double>();
    case kBool: {
      TANDEM_ASSIGN_OR_RETURN(const MetadataValue one, ReadBools(1));
      return MetadataValue(static_cast<bool>(std::get<std::vector<bool>>(one)[0]));
    }
    case kString: {
      uint64_t length = 0;
      std::string_view text;
      if (!cursor_.Read(&length) || !cursor_.ReadBytes(length, &text)) {
        return CutOff(absl::StrCat("a string of ", length, " bytes in ", KeyText()));
      }
      return MetadataValue(std::string(text));
    }
    default:
      return Invalid(absl::StrCat(KeyText(), ": expected a value type of 0 to 12, found ", type));
  }
}

absl::Status Parser::ReadAlignment() {
  const MetadataValue* value = result_.metadata.Find("general.alignment");
  if (value == nullptr) return absl::OkStatus();
  const auto* alignment = std::get_if<uint64_t>(value);
  if (alignment == nullptr) {
    return Invalid(
        "metadata key 'general.alignment': expected an unsigned integer, found another type");
  }
  if (*alignment < kAlignmentMin || *alignment > kAlignmentMax ||
      (*alignment & (*alignment - 1)) != 0) {
    return Invalid(absl::StrCat("metadata key 'general.alignment': expected a power of two from ",
                                kAlignmentMin, " to ", kAlignmentMax, ", found ", *alignment));
  }
  alignment_ = *alignment;
  return absl::OkStatus();
}

absl::StatusOr<TensorInfo> Parser::ReadTensorInfo() {
  TensorInfo info;
  info.view.file = file_;
  uint64_t length = 0;
  if (!cursor_.Read(&length)) return CutOff("another tensor");
  if (length == 0 || length > kNameBytesMax) {
    return Invalid(
        absl::StrCat("expected a tensor name of 1 to ", kNameBytesMax, " bytes, found ", length));
  }
  std::string_view name;
  if (!cursor_.ReadBytes(length, &name))
    return CutOff(absl::StrCat("a tensor name of ", length, " bytes"));
  info.view.name = std::string(name);
  TANDEM_RETURN_IF_ERROR(ReadShape(&info));
  TANDEM_RETURN_IF_ERROR(ReadType(&info));
  const std::string tensor = absl::StrCat("tensor ", PrintableName(name));
  absl::StatusOr<int64_t> size_bytes = TensorBytes(info.view.dtype, info.view.shape);
  if (!size_bytes.ok()) return Invalid(absl::StrCat(tensor, ": ", size_bytes.status().message()));
  info.view.size_bytes = *size_bytes;
  if (!cursor_.Read(&info.offset)) return CutOff(absl::StrCat("the offset of ", tensor));
  if (info.offset % alignment_ != 0) {
    return Invalid(absl::StrCat(tensor, ": expected an offset that is a multiple of ", alignment_,
                                ", found ", info.offset));
  }
  return info;
}

absl::Status Parser::ReadShape(TensorInfo* info) {
  const std::string tensor = absl::StrCat("tensor ", PrintableName(info->view.name));
  uint32_t count = 0;
  if (!cursor_.Read(&count)) return CutOff(absl::StrCat("the shape of ", tensor));
  if (count == 0 || count > kDimensionsMax) {
    return Invalid(
        absl::StrCat(tensor, ": expected 1 to ", kDimensionsMax, " dimensions, found ", count));
  }
  info->view.shape.resize(count);
  for (uint32_t i = 0; i < count; ++i) {
    uint64_t dimension = 0;
    if (!cursor_.Read(&dimension)) return CutOff(absl::StrCat("the shape of ", tensor));
    if (dimension == 0 || dimension > kDimensionMax) {
      return Invalid(
          absl::StrCat(tensor, ": expected dimensions from 1 to 2^40, found ", dimension));
    }
    info->view.shape[count - 1 - i] =
        static_cast<int64_t>(dimension);  // the file counts from the contiguous one
  }
  return absl::OkStatus();
}

absl::Status Parser::ReadType(TensorInfo* info) {
  const std::string tensor = absl::StrCat("tensor ", PrintableName(info->view.name));
  uint32_t id = 0;
  if (!cursor_.Read(&id)) return CutOff(absl::StrCat("the type of ", tensor));
  const auto it = std::find_if(kGgmlTypes.begin(), kGgmlTypes.end(),
                               [&](const GgmlType& t) { return t.id == id; });
  if (it != kGgmlTypes.end() && it->dtype.has_value()) {
    info->view.dtype = *it->dtype;
    return absl::OkStatus();
  }
  return absl::UnimplementedError(
      absl::StrCat(file_, ": ", tensor, ": expected a tensor type of docs/formats.md, found ",
                   it == kGgmlTypes.end() ? "an unknown one" : it->name, " (id ", id, ")"));
}

absl::Status Parser::PlaceTensors(std::vector<TensorInfo> infos) {
  // Cannot overflow: the position is at most the size of memory and the alignment at most 2^20.
  const uint64_t start = (cursor_.position() + alignment_ - 1) / alignment_ * alignment_;
  const uint64_t data_bytes = start < bytes_.size() ? bytes_.size() - start : 0;
  for (TensorInfo& info : infos) {
    const auto size_bytes = static_cast<uint64_t>(info.view.size_bytes);
    if (info.offset > data_bytes || size_bytes > data_bytes - info.offset) {
      return absl::DataLossError(
          absl::StrCat(file_, ": tensor ", PrintableName(info.view.name), ": expected ", size_bytes,
                       " bytes at offset ", info.offset, ", found ", data_bytes,
                       " bytes of tensor data (the file is cut off or lies about the offset)"));
    }
    info.view.data = bytes_.data() + start + info.offset;
    result_.tensors.push_back(std::move(info.view));
  }
  return absl::OkStatus();
}

absl::Status Parser::CheckOverlap() const {
  std::vector<const TensorView*> by_address;
  for (const TensorView& tensor : result_.tensors) by_address.push_back(&tensor);
  std::sort(by_address.begin(), by_address.end(),
            [](const TensorView* a, const TensorView* b) { return a->data < b->data; });
  for (size_t i = 1; i < by_address.size(); ++i) {
    const TensorView& before = *by_address[i - 1];
    const TensorView& after = *by_address[i];
    if (before.data + before.size_bytes <= after.data) continue;
    return Invalid(absl::StrCat("tensor ", PrintableName(after.name),
                                ": expected bytes of its own, found ",
                                before.data + before.size_bytes - after.data,
                                " shared with tensor ", PrintableName(before.name)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GgufFile> ParseGguf(std::span<const std::byte> bytes, const std::string& file) {
  return Parser(bytes, file).Parse();
}

}  // namespace tandem
