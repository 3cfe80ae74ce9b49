#include "lib/model/safetensors_file.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "lib/model/container_builders.h"

namespace tandem {
namespace {

constexpr char kFile[] = "hostile.safetensors";

// The parser sees a heap block of exactly the file's size, so that a sanitizer notices a read
// beyond it.
absl::StatusOr<SafetensorsFile> ParseExactly(const std::string& bytes) {
  const std::unique_ptr<std::byte[]> copy(new std::byte[bytes.size()]);
  std::memcpy(copy.get(), bytes.data(), bytes.size());
  absl::StatusOr<SafetensorsFile> parsed = ParseSafetensors({copy.get(), bytes.size()}, kFile);
  if (parsed.ok()) {
    for (TensorView& tensor : parsed->tensors) tensor.data = nullptr;  // the copy ends here
  }
  return parsed;
}

// A file of `tensors` (JSON fields) and 64 bytes of data.
std::string FileOf(const std::string& tensors, size_t data_bytes = 64) {
  return BuildSafetensors("{" + tensors + "}", data_bytes);
}

// One tensor named victim that takes all 64 bytes, after `dtype` and `shape`.
std::string Victim(const std::string& dtype, const std::string& shape,
                   const std::string& offsets = "[0,64]") {
  return FileOf(R"("victim":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" +
                offsets + "}");
}

TEST(SafetensorsFile, ReadsTensorsInOrderOfTheirBytes) {
  const std::string bytes =
      BuildSafetensors(R"({"w_scale_inv":{"dtype":"F32","shape":[1,2],"data_offsets":[24,32]},)"
                       R"("__metadata__":{"format":"pt"},)"
                       R"("w":{"dtype":"F8_E4M3","shape":[4,6],"data_offsets":[0,24]},)"
                       R"("scalar":{"data_offsets":[32,34],"shape":[],"dtype":"BF16"}})",
                       34);
  const absl::StatusOr<SafetensorsFile> parsed =
      ParseSafetensors({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()}, kFile);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->tensors.size(), 3u);
  EXPECT_EQ(parsed->tensors[0].Describe(), "f8_e4m3 [4, 6]");
  EXPECT_EQ(parsed->tensors[1].name, "w_scale_inv");
  EXPECT_EQ(parsed->tensors[1].Describe(), "f32 [1, 2]");
  EXPECT_EQ(static_cast<int>(parsed->tensors[1].data[0]), 24);
  EXPECT_EQ(parsed->tensors[2].Describe(), "bf16 []");
  EXPECT_EQ(parsed->tensors[2].size_bytes, 2);
  EXPECT_EQ(*parsed->metadata.GetString("format"), "pt");
}

TEST(SafetensorsFile, AFileWithoutTensorsIsAFile) {
  EXPECT_TRUE(ParseExactly(BuildSafetensors("{}", 0)).ok());
}

TEST(SafetensorsFile, EveryPrefixOfAFileIsRefused) {
  const std::string bytes = Victim(R"("F32")", "[16]");
  ASSERT_TRUE(ParseExactly(bytes).ok()) << ParseExactly(bytes).status();
  for (size_t length = 0; length < bytes.size(); ++length) {
    const absl::Status status = ParseExactly(bytes.substr(0, length)).status();
    ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss) << length << ": " << status;
    ASSERT_EQ(status.message().find(kFile), 0u) << status;
  }
}

struct Hostile {
  const char* name;
  absl::StatusCode code;
  std::vector<std::string> parts;  // of the message: what was expected, what was found, where
  std::function<std::string()> bytes;
};

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kCutOff = absl::StatusCode::kDataLoss;
constexpr auto kUnknown = absl::StatusCode::kUnimplemented;

constexpr char kFirst[] = R"("first":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},)";

const std::vector<Hostile> kHostileFiles = {
    {"empty", kCutOff, {"8-byte header length", "0 bytes"}, [] { return std::string(); }},
    {"header_length_0",
     kInvalid,
     {"2 to 100000000", "found 0"},
     [] { return std::string(64, '\0'); }},
    {"header_length_huge",
     kInvalid,
     {"found 18446744073709551615"},
     [] { return std::string(64, '\xff'); }},
    {"header_length_above_bound",
     kInvalid,
     {"found 100000001"},
     [] { return LittleEndian<uint64_t>(100000001) + "{}"; }},
    {"header_longer_than_file",
     kCutOff,
     {"header of 5000 bytes"},
     [] { return LittleEndian<uint64_t>(5000) + "{}"; }},
    {"header_is_an_array",
     kInvalid,
     {"starts with '{'", "'['"},
     [] { return BuildSafetensors("[1,2,3]", 0); }},
    {"header_is_cut",
     kInvalid,
     {"JSON object"},
     [] { return BuildSafetensors(R"({"a":{"dtype":"F32","shape":[1)", 0); }},
    {"header_has_two_values",
     kInvalid,
     {"JSON object"},
     [] { return BuildSafetensors("{} {}", 0); }},
    {"header_is_not_utf8", kInvalid, {"JSON object"}, [] { return FileOf("\"\xff\":1"); }},
    {"header_nests_deeply",
     kInvalid,
     {"JSON object"},
     [] { return FileOf("\"a\":" + std::string(5000, '[') + std::string(5000, ']')); }},
    {"metadata_is_a_list",
     kInvalid,
     {"'__metadata__'"},
     [] { return FileOf(R"("__metadata__":[])", 0); }},
    {"metadata_holds_a_number",
     kInvalid,
     {"'format'", "a string"},
     [] { return FileOf(R"("__metadata__":{"format":1})", 0); }},
    {"metadata_key_twice",
     kInvalid,
     {"'a' twice"},
     [] { return FileOf(R"("__metadata__":{"a":"1","a":"2"})", 0); }},
    {"tensor_is_a_number",
     kInvalid,
     {"'victim'", "an object"},
     [] { return FileOf(R"("victim":3)"); }},
    {"name_empty",
     kInvalid,
     {"at least one byte"},
     [] { return FileOf(R"("":{"dtype":"F32","shape":[16],"data_offsets":[0,64]})"); }},
    {"name_twice",
     kInvalid,
     {"'first' twice"},
     [] {
       return FileOf(std::string(kFirst) +
                     R"("first":{"dtype":"F32","shape":[8],"data_offsets":[32,64]})");
     }},
    {"name_is_escaped", kInvalid, {"\\x1b"}, [] { return FileOf(R"("\u001b[2J":3)"); }},
    {"dtype_missing",
     kInvalid,
     {"'victim'", "2 fields"},
     [] { return FileOf(R"("victim":{"shape":[16],"data_offsets":[0,64]})"); }},
    {"shape_twice",
     kInvalid,
     {"'victim'", "4 fields"},
     [] {
       return FileOf(R"("victim":{"dtype":"F32","shape":[16],"shape":[16],"data_offsets":[0,64]})");
     }},
    {"field_unknown",
     kInvalid,
     {"'victim'", "3 fields, of these 2"},
     [] { return FileOf(R"("victim":{"dtype":"F32","dims":[16],"data_offsets":[0,64]})"); }},
    {"dtype_is_a_number",
     kInvalid,
     {"'victim'", "dtype to be a string"},
     [] { return Victim("1", "[16]"); }},
    {"dtype_f64",
     kUnknown,
     {"'victim'", "F8_E4M3 or I32", "'F64'"},
     [] { return Victim(R"("F64")", "[8]"); }},
    {"dtype_i64", kUnknown, {"'victim'", "'I64'"}, [] { return Victim(R"("I64")", "[8]"); }},
    {"dtype_u8", kUnknown, {"'victim'", "'U8'"}, [] { return Victim(R"("U8")", "[64]"); }},
    {"dtype_e5m2",
     kUnknown,
     {"'victim'", "'F8_E5M2'"},
     [] { return Victim(R"("F8_E5M2")", "[64]"); }},
    {"dtype_lower_case",
     kUnknown,
     {"'victim'", "'f32'"},
     [] { return Victim(R"("f32")", "[16]"); }},
    {"shape_is_a_number",
     kInvalid,
     {"'victim'", "shape to be an array"},
     [] { return Victim(R"("F32")", "16"); }},
    {"shape_has_9_dimensions",
     kInvalid,
     {"'victim'", "at most 8 dimensions", "found 9"},
     [] { return Victim(R"("F32")", "[1,1,1,1,1,1,1,1,16]"); }},
    {"dimension_negative",
     kInvalid,
     {"'victim'", "positive", "-4"},
     [] { return Victim(R"("F32")", "[-4,-4]"); }},
    {"dimension_0",
     kInvalid,
     {"'victim'", "positive"},
     [] { return Victim(R"("F32")", "[0,16]", "[0,0]"); }},
    {"dimension_fraction",
     kInvalid,
     {"'victim'", "dimensions below 2^63"},
     [] { return Victim(R"("F32")", "[16.0]"); }},
    {"dimension_uint64_max",
     kInvalid,
     {"'victim'", "dimensions below 2^63"},
     [] { return Victim(R"("F32")", "[18446744073709551615]"); }},
    {"product_wraps",
     kInvalid,
     {"'victim'", "fewer than 2^63 bytes"},
     [] { return Victim(R"("F32")", "[4611686018427387904,4]", "[0,0]"); }},
    {"row_bytes_wrap",
     kInvalid,
     {"'victim'", "fewer than 2^63 bytes"},
     [] { return Victim(R"("F32")", "[4611686018427387904]", "[0,0]"); }},
    {"offsets_one",
     kInvalid,
     {"'victim'", "two unsigned integers"},
     [] { return Victim(R"("F32")", "[16]", "[64]"); }},
    {"offsets_three",
     kInvalid,
     {"'victim'", "two unsigned integers"},
     [] { return Victim(R"("F32")", "[16]", "[0,64,64]"); }},
    {"offsets_negative",
     kInvalid,
     {"'victim'", "two unsigned integers"},
     [] { return Victim(R"("F32")", "[16]", "[-64,0]"); }},
    {"offsets_reversed",
     kInvalid,
     {"'victim'", "ascending"},
     [] { return Victim(R"("F32")", "[16]", "[64,0]"); }},
    {"offsets_do_not_match_shape",
     kInvalid,
     {"'victim'", "expected 60 bytes", "f32 [15]", "64"},
     [] { return Victim(R"("F32")", "[15]"); }},
    {"offsets_beyond_file",
     kCutOff,
     {"'victim'", "up to 128", "found 64"},
     [] { return Victim(R"("F32")", "[16]", "[64,128]"); }},
    {"offsets_wrap",
     kInvalid,
     {"'victim'", "18446744073709551615"},
     [] { return Victim(R"("F32")", "[16]", "[0,18446744073709551615]"); }},
    {"overlap",
     kInvalid,
     {"'second'", "start at 32", "found 16 (an overlap)"},
     [] {
       return FileOf(std::string(kFirst) +
                     R"("second":{"dtype":"F32","shape":[12],"data_offsets":[16,64]})");
     }},
    {"same_bytes",
     kInvalid,
     {"start at 32", "found 0 (an overlap)"},
     [] {
       return FileOf(
           std::string(kFirst) + R"("second":{"dtype":"F32","shape":[8],"data_offsets":[0,32]})",
           32);
     }},
    {"gap",
     kInvalid,
     {"'second'", "start at 32", "found 48 (a gap)"},
     [] {
       return FileOf(std::string(kFirst) +
                     R"("second":{"dtype":"F32","shape":[4],"data_offsets":[48,64]})");
     }},
    {"bytes_after_the_last",
     kInvalid,
     {"32 bytes of tensor data", "found 64"},
     [] { return FileOf(R"("first":{"dtype":"F32","shape":[8],"data_offsets":[0,32]})"); }},
    {"misaligned",
     kInvalid,
     {"'second'", "multiple of 4"},
     [] {
       return FileOf(R"("first":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]},)"
                     R"("second":{"dtype":"F32","shape":[8],"data_offsets":[2,34]})",
                     34);
     }},
};

class HostileSafetensors : public testing::TestWithParam<size_t> {};

TEST_P(HostileSafetensors, IsRefusedInOneSentence) {
  const Hostile& hostile = kHostileFiles[GetParam()];
  const absl::Status status = ParseExactly(hostile.bytes()).status();
  const std::string message(status.message());
  EXPECT_EQ(status.code(), hostile.code) << status;
  EXPECT_EQ(message.find(std::string(kFile) + ": "), 0u) << message;
  EXPECT_NE(message.find("expected"), std::string::npos) << message;
  EXPECT_NE(message.find("found"), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  for (const std::string& part : hostile.parts)
    EXPECT_NE(message.find(part), std::string::npos) << part << "\n" << message;
}

INSTANTIATE_TEST_SUITE_P(AllCases, HostileSafetensors,
                         testing::Range<size_t>(0, kHostileFiles.size()),
                         [](const auto& info) { return kHostileFiles[info.param].name; });

}  // namespace
}  // namespace tandem
