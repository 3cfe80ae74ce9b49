#include "lib/model/safetensors_file.h"

#include <simdjson.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/model/byte_cursor.h"
#include "lib/model/printable_name.h"

namespace tandem {
namespace {

// The format's own bound. DeepSeek-V3's largest shard has a header of 0.3 MB.
constexpr uint64_t kHeaderBytesMax = 100'000'000;
constexpr size_t kDimensionsMax = 8;

struct SafetensorsType {
  std::string_view name;
  DType dtype;
};
constexpr std::array<SafetensorsType, 5> kTypes = {{{"F32", DType::kF32},
                                                    {"F16", DType::kF16},
                                                    {"BF16", DType::kBF16},
                                                    {"F8_E4M3", DType::kF8E4M3},
                                                    {"I32", DType::kI32}}};

struct Placed {
  TensorView view;
  uint64_t begin = 0;
  uint64_t end = 0;
};

// One parse; holds what every message needs.
class Parser {
 public:
  Parser(std::span<const std::byte> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  absl::StatusOr<SafetensorsFile> Parse();

 private:
  absl::StatusOr<std::string_view> ReadHeader();
  absl::Status ReadMetadata(simdjson::dom::element value);
  absl::Status ReadTensor(std::string_view name, simdjson::dom::element value);
  absl::Status ReadType(simdjson::dom::element value, Placed* placed);
  absl::Status ReadShape(simdjson::dom::element value, Placed* placed);
  absl::Status ReadOffsets(simdjson::dom::element value, Placed* placed);
  absl::Status Place(Placed placed);
  absl::Status CheckCover();

  absl::Status Invalid(const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ": ", what));
  }
  absl::Status InvalidTensor(const Placed& placed, const std::string& what) const {
    return Invalid(absl::StrCat("tensor ", PrintableName(placed.view.name), ": ", what));
  }

  std::span<const std::byte> bytes_;
  const std::string& file_;
  uint64_t data_start_ = 0;
  uint64_t data_bytes_ = 0;
  std::vector<Placed> placed_;
  SafetensorsFile result_;
};

absl::StatusOr<SafetensorsFile> Parser::Parse() {
  TANDEM_ASSIGN_OR_RETURN(const std::string_view header, ReadHeader());
  simdjson::dom::parser parser;
  simdjson::dom::object object;
  const simdjson::padded_string padded(header.data(), header.size());
  if (const auto error = parser.parse(padded).get_object().get(object)) {
    return Invalid(
        absl::StrCat("expected a JSON object as header, found: ", simdjson::error_message(error)));
  }
  absl::flat_hash_set<std::string> names;
  for (const auto [key, value] : object) {
    if (!names.emplace(key).second) {
      return Invalid(
          absl::StrCat("expected distinct tensor names, found ", PrintableName(key), " twice"));
    }
    TANDEM_RETURN_IF_ERROR(key == "__metadata__" ? ReadMetadata(value) : ReadTensor(key, value));
  }
  TANDEM_RETURN_IF_ERROR(CheckCover());
  return std::move(result_);
}

absl::StatusOr<std::string_view> Parser::ReadHeader() {
  ByteCursor cursor(bytes_);
  uint64_t header_bytes = 0;
  if (!cursor.Read(&header_bytes)) {
    return absl::DataLossError(absl::StrCat(
        file_, ": expected an 8-byte header length, found a file of ", bytes_.size(), " bytes"));
  }
  if (header_bytes < 2 || header_bytes > kHeaderBytesMax) {
    return Invalid(absl::StrCat("expected a header of 2 to ", kHeaderBytesMax, " bytes, found ",
                                header_bytes));
  }
  std::string_view header;
  if (!cursor.ReadBytes(header_bytes, &header)) {
    return absl::DataLossError(absl::StrCat(file_, ": expected a header of ", header_bytes,
                                            " bytes, found ", cursor.remaining(),
                                            " before the end of the file"));
  }
  if (header[0] != '{') {
    return Invalid(absl::StrCat("expected a header that starts with '{', found ",
                                PrintableName(header.substr(0, 1))));
  }
  data_start_ = cursor.position();
  data_bytes_ = cursor.remaining();
  return header;
}

absl::Status Parser::ReadMetadata(simdjson::dom::element value) {
  simdjson::dom::object object;
  if (value.get_object().get(object))
    return Invalid("expected '__metadata__' to be an object, found another kind");
  for (const auto [key, field] : object) {
    std::string_view text;
    if (field.get_string().get(text)) {
      return Invalid(absl::StrCat("metadata key ", PrintableName(key),
                                  ": expected a string, found another kind"));
    }
    if (result_.metadata.Has(key)) {
      return Invalid(
          absl::StrCat("expected distinct metadata keys, found ", PrintableName(key), " twice"));
    }
    result_.metadata.Set(std::string(key), std::string(text));
  }
  return absl::OkStatus();
}

absl::Status Parser::ReadTensor(std::string_view name, simdjson::dom::element value) {
  Placed placed;
  placed.view.name = std::string(name);
  placed.view.file = file_;
  if (name.empty())
    return Invalid("expected tensor names of at least one byte, found an empty one");
  simdjson::dom::object object;
  if (value.get_object().get(object))
    return InvalidTensor(placed, "expected an object, found another kind");
  int fields = 0;
  std::optional<simdjson::dom::element> dtype, shape, offsets;
  for (const auto [key, field] : object) {
    ++fields;
    if (key == "dtype") dtype = field;
    if (key == "shape") shape = field;
    if (key == "data_offsets") offsets = field;
  }
  if (fields != 3 || !dtype.has_value() || !shape.has_value() || !offsets.has_value()) {
    return InvalidTensor(
        placed, absl::StrCat("expected the fields dtype, shape and data_offsets once each, found ",
                             fields, " fields, of these ",
                             dtype.has_value() + shape.has_value() + offsets.has_value()));
  }
  TANDEM_RETURN_IF_ERROR(ReadType(*dtype, &placed));
  TANDEM_RETURN_IF_ERROR(ReadShape(*shape, &placed));
  TANDEM_RETURN_IF_ERROR(ReadOffsets(*offsets, &placed));
  return Place(std::move(placed));
}

absl::Status Parser::ReadType(simdjson::dom::element value, Placed* placed) {
  std::string_view name;
  if (value.get_string().get(name))
    return InvalidTensor(*placed, "expected dtype to be a string, found another kind");
  for (const SafetensorsType& type : kTypes) {
    if (type.name != name) continue;
    placed->view.dtype = type.dtype;
    return absl::OkStatus();
  }
  return absl::UnimplementedError(
      absl::StrCat(file_, ": tensor ", PrintableName(placed->view.name),
                   ": expected dtype F32, F16, BF16, F8_E4M3 or I32, found ", PrintableName(name)));
}

absl::Status Parser::ReadShape(simdjson::dom::element value, Placed* placed) {
  simdjson::dom::array array;
  if (value.get_array().get(array))
    return InvalidTensor(*placed, "expected shape to be an array, found another kind");
  if (array.size() > kDimensionsMax) {
    return InvalidTensor(*placed, absl::StrCat("expected at most ", kDimensionsMax,
                                               " dimensions, found ", array.size()));
  }
  for (const simdjson::dom::element element : array) {
    int64_t dimension = 0;
    if (element.get_int64().get(dimension)) {
      return InvalidTensor(*placed, "expected dimensions below 2^63, found something else");
    }
    placed->view.shape.push_back(dimension);
  }
  absl::StatusOr<int64_t> size_bytes = TensorBytes(placed->view.dtype, placed->view.shape);
  if (!size_bytes.ok()) {
    return InvalidTensor(*placed, std::string(size_bytes.status().message()));
  }
  placed->view.size_bytes = *size_bytes;
  return absl::OkStatus();
}

absl::Status Parser::ReadOffsets(simdjson::dom::element value, Placed* placed) {
  simdjson::dom::array array;
  if (value.get_array().get(array) || array.size() != 2 ||
      array.at(0).get_uint64().get(placed->begin) || array.at(1).get_uint64().get(placed->end)) {
    return InvalidTensor(*placed,
                         "expected data_offsets to be two unsigned integers, found something else");
  }
  if (placed->begin > placed->end) {
    return InvalidTensor(*placed, absl::StrCat("expected data_offsets in ascending order, found ",
                                               placed->begin, " and ", placed->end));
  }
  return absl::OkStatus();
}

absl::Status Parser::Place(Placed placed) {
  const auto size_bytes = static_cast<uint64_t>(placed.view.size_bytes);
  if (placed.end - placed.begin != size_bytes) {
    return InvalidTensor(
        placed, absl::StrCat("expected ", size_bytes, " bytes for ", placed.view.Describe(),
                             ", found data_offsets of ", placed.end - placed.begin));
  }
  if (placed.end > data_bytes_) {
    return absl::DataLossError(absl::StrCat(file_, ": tensor ", PrintableName(placed.view.name),
                                            ": expected bytes up to ", placed.end, ", found ",
                                            data_bytes_, " bytes of tensor data"));
  }
  const uint64_t position = data_start_ + placed.begin;
  const int element_bytes = InfoOf(placed.view.dtype).block_bytes;
  if (position % element_bytes != 0) {
    return InvalidTensor(placed,
                         absl::StrCat("expected a position in the file that is a multiple of ",
                                      element_bytes, ", found ", position));
  }
  placed.view.data = bytes_.data() + position;
  placed_.push_back(std::move(placed));
  return absl::OkStatus();
}

// Sorts the tensors by place: the format allows neither overlaps nor gaps.
absl::Status Parser::CheckCover() {
  std::sort(placed_.begin(), placed_.end(),
            [](const Placed& a, const Placed& b) { return a.begin < b.begin; });
  uint64_t covered = 0;
  for (Placed& placed : placed_) {
    if (placed.begin != covered) {
      return InvalidTensor(placed,
                           absl::StrCat("expected its bytes to start at ", covered,
                                        ", the end of the tensor before, found ", placed.begin,
                                        placed.begin < covered ? " (an overlap)" : " (a gap)"));
    }
    covered = placed.end;
    result_.tensors.push_back(std::move(placed.view));
  }
  if (covered != data_bytes_) {
    return Invalid(
        absl::StrCat("expected ", covered, " bytes of tensor data, found ", data_bytes_));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SafetensorsFile> ParseSafetensors(std::span<const std::byte> bytes,
                                                 const std::string& file) {
  return Parser(bytes, file).Parse();
}

}  // namespace tandem
