#include "lib/model/gguf_file.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "lib/model/container_builders.h"

namespace tandem {
namespace {

constexpr char kFile[] = "hostile.gguf";

// The parser sees a heap block of exactly the file's size, so that a sanitizer notices a read
// beyond it.
absl::StatusOr<GgufFile> ParseExactly(const std::string& bytes) {
  const std::unique_ptr<std::byte[]> copy(new std::byte[bytes.size()]);
  std::memcpy(copy.get(), bytes.data(), bytes.size());
  absl::StatusOr<GgufFile> parsed = ParseGguf({copy.get(), bytes.size()}, kFile);
  if (parsed.ok()) {
    for (TensorView& tensor : parsed->tensors) tensor.data = nullptr;  // the copy ends here
  }
  return parsed;
}

std::span<const std::byte> SpanOf(const std::string& bytes) {
  return {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()};
}

GgufBuilder TwoTensors() {
  GgufBuilder builder;
  builder.Text("general.architecture", "deepseek2").Uint32("deepseek2.block_count", 2);
  builder.Add("norm", {24}, kGgmlF32, 0, 96).Add("experts", {64, 2, 3}, kGgmlQ8_0, 96, 3 * 2 * 68);
  return builder;
}

TEST(GgufFile, ReadsTensorsAndReversesDimensions) {
  const std::string bytes = TwoTensors().Build();
  const absl::StatusOr<GgufFile> parsed = ParseGguf(SpanOf(bytes), kFile);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->version, 3u);
  ASSERT_EQ(parsed->tensors.size(), 2u);
  const TensorView& experts = parsed->tensors[1];
  EXPECT_EQ(experts.name, "experts");
  EXPECT_EQ(experts.file, kFile);
  EXPECT_EQ(experts.dtype, DType::kQ8_0);
  EXPECT_EQ(experts.shape, (std::vector<int64_t>{3, 2, 64}));
  EXPECT_EQ(experts.size_bytes, 408);
  EXPECT_EQ(static_cast<int>(experts.data[0]), 96);  // byte 96 of the data section
  EXPECT_EQ(reinterpret_cast<const char*>(experts.data) + 408, bytes.data() + bytes.size());
  EXPECT_EQ(*parsed->metadata.GetString("general.architecture"), "deepseek2");
}

TEST(GgufFile, Version2HasTheSameLayout) {
  GgufBuilder builder = TwoTensors();
  builder.version = 2;
  const std::string bytes = builder.Build();
  EXPECT_EQ(ParseGguf(SpanOf(bytes), kFile)->version, 2u);
}

TEST(GgufFile, HonoursAlignmentAndAcceptsGapsAndAnyOrder) {
  GgufBuilder builder;
  builder.alignment = 128;
  builder.Uint32("general.alignment", 128);
  builder.Add("second", {8}, kGgmlF32, 512, 32).Add("first", {8}, kGgmlF32, 128, 32);
  const std::string bytes = builder.Build();
  const absl::StatusOr<GgufFile> parsed = ParseGguf(SpanOf(bytes), kFile);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->tensors[0].name, "second");  // file order
  EXPECT_EQ((reinterpret_cast<const char*>(parsed->tensors[1].data) - bytes.data()) % 128, 0);
  EXPECT_EQ(static_cast<int>(parsed->tensors[1].data[0]), 128);
}

TEST(GgufFile, MetadataAloneNeedsNoPadding) {
  GgufBuilder builder;
  builder.Text("general.architecture", "deepseek2");
  EXPECT_TRUE(ParseExactly(builder.Build()).ok());
}

TEST(GgufFile, LargeTokenListsAreRead) {
  std::string tokens, types;
  for (int i = 0; i < 129280; ++i) {
    tokens += GgufString("token" + std::to_string(i));
    types += LittleEndian<int32_t>(i % 6);
  }
  GgufBuilder builder;
  builder.Array("tokenizer.ggml.tokens", kGgufText, 129280, tokens);
  builder.Array("tokenizer.ggml.token_type", kGgufInt32, 129280, types);
  const absl::StatusOr<GgufFile> parsed = ParseExactly(builder.Build());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->metadata.GetStrings("tokenizer.ggml.tokens")->at(129279), "token129279");
  EXPECT_EQ(parsed->metadata.GetInts("tokenizer.ggml.token_type")->at(129279), 129279 % 6);
}

TEST(GgufFile, EveryPrefixOfAFileIsRefused) {
  GgufBuilder builder = TwoTensors();
  builder.Array("a", kGgufText, 2, GgufString("x") + GgufString("yz"))
      .Key("b", kGgufBool, std::string(1, '\1'));
  const std::string bytes = builder.Build();
  ASSERT_TRUE(ParseExactly(bytes).ok());
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

// A file with one tensor, "victim", after an honest one.
std::string WithVictim(std::vector<uint64_t> dims, uint32_t type, uint64_t offset,
                       uint64_t size_bytes) {
  GgufBuilder builder;
  builder.Add("honest", {8}, kGgmlF32, 0, 32).Add("victim", std::move(dims), type, offset, 0);
  builder.data_bytes = std::max<uint64_t>(32, size_bytes);
  return builder.Build();
}

std::string WithKey(const std::string& key, uint32_t type, const std::string& value) {
  return GgufBuilder().Key(key, type, value).Text("after", "x").Build();
}

std::string WithAlignment(uint32_t type, const std::string& value) {
  return GgufBuilder().Key("general.alignment", type, value).Add("t", {8}, kGgmlF32, 0, 32).Build();
}

std::string Changed(const std::function<void(GgufBuilder&)>& change) {
  GgufBuilder builder = TwoTensors();
  change(builder);
  return builder.Build();
}

const std::vector<Hostile> kHostileFiles = {
    {"empty", kCutOff, {"GGUF", "byte 0"}, [] { return std::string(); }},
    {"bad_magic",
     kInvalid,
     {"'GGUF'", "'GGML'"},
     [] { return Changed([](auto& b) { b.magic = "GGML"; }); }},
    {"magic_is_escaped",
     kInvalid,
     {"\\x1b"},
     [] { return Changed([](auto& b) { b.magic = "\x1b[2J"; }); }},
    {"version_0",
     kUnknown,
     {"version 2 or 3", "found 0"},
     [] { return Changed([](auto& b) { b.version = 0; }); }},
    {"version_1",
     kUnknown,
     {"version 2 or 3", "found 1"},
     [] { return Changed([](auto& b) { b.version = 1; }); }},
    {"version_4",
     kUnknown,
     {"version 2 or 3", "found 4"},
     [] { return Changed([](auto& b) { b.version = 4; }); }},
    {"big_endian",
     kUnknown,
     {"big-endian"},
     [] { return Changed([](auto& b) { b.version = 0x03000000; }); }},
    {"key_count_huge",
     kInvalid,
     {"65536 metadata keys"},
     [] { return Changed([](auto& b) { b.keys_lie = 1 << 20; }); }},
    {"key_count_negative",
     kInvalid,
     {"metadata keys", "18446744073709551615"},
     [] { return Changed([](auto& b) { b.keys_lie = -3; }); }},
    {"key_count_beyond_file",
     kCutOff,
     {"60002 metadata keys"},
     [] { return Changed([](auto& b) { b.keys_lie = 60000; }); }},
    {"tensor_count_huge",
     kInvalid,
     {"65536 tensors"},
     [] { return Changed([](auto& b) { b.tensors_lie = 1 << 20; }); }},
    {"tensor_count_negative",
     kInvalid,
     {"tensors", "18446744073709551615"},
     [] { return Changed([](auto& b) { b.tensors_lie = -3; }); }},
    {"tensor_count_beyond_file",
     kCutOff,
     {"60002 tensors"},
     [] { return Changed([](auto& b) { b.tensors_lie = 60000; }); }},
    {"tensor_count_one_more",
     kInvalid,
     {"tensor name", "found"},
     [] {
       return Changed([](auto& b) {
         b.tensors_lie = 1;
         b.data_bytes = 600;
       });
     }},
    {"key_empty",
     kInvalid,
     {"metadata key of 1 to", "found 0"},
     [] { return WithKey("", kGgufUint8, "x"); }},
    {"key_too_long",
     kInvalid,
     {"found 65536"},
     [] { return WithKey(std::string(65536, 'k'), kGgufUint8, "x"); }},
    {"key_length_wraps",
     kInvalid,
     {"18446744073709551615"},
     [] {
       GgufBuilder b;
       b.keys.push_back(LittleEndian<uint64_t>(~uint64_t{0}) + std::string(64, 'k'));
       return b.Build();
     }},
    {"key_twice",
     kInvalid,
     {"distinct metadata keys", "'deepseek2.block_count'"},
     [] { return Changed([](auto& b) { b.Uint32("deepseek2.block_count", 3); }); }},
    {"value_type_unknown",
     kInvalid,
     {"'k'", "0 to 12", "found 13"},
     [] { return WithKey("k", 13, "xxxxxxxx"); }},
    {"bool_is_two",
     kInvalid,
     {"'k'", "0 or 1", "found 2"},
     [] { return WithKey("k", kGgufBool, "\2"); }},
    {"string_beyond_file",
     kCutOff,
     {"'k'", "a string of 4096 bytes"},
     [] { return WithKey("k", kGgufText, LittleEndian<uint64_t>(4096) + "abc"); }},
    {"string_length_wraps",
     kCutOff,
     {"'k'", "18446744073709551608"},
     [] { return WithKey("k", kGgufText, LittleEndian<uint64_t>(~uint64_t{7}) + "abc"); }},
    {"array_of_arrays",
     kUnknown,
     {"'k'", "array of arrays"},
     [] { return GgufBuilder().Array("k", kGgufArray, 1, "xxxxxxxxxxxx").Build(); }},
    {"array_type_unknown",
     kInvalid,
     {"'k'", "0 to 12", "found 99"},
     [] { return GgufBuilder().Array("k", 99, 1, "xxxxxxxx").Build(); }},
    {"array_beyond_file",
     kCutOff,
     {"'k'", "1000 numbers"},
     [] { return GgufBuilder().Array("k", kGgufUint32, 1000, "xxxx").Build(); }},
    {"array_bytes_wrap",
     kCutOff,
     {"'k'", "4611686018427387905 numbers"},
     [] { return GgufBuilder().Array("k", kGgufUint32, (uint64_t{1} << 62) + 1, "xxxx").Build(); }},
    {"array_of_strings_huge",
     kCutOff,
     {"'k'", "1152921504606846976 strings"},
     [] { return GgufBuilder().Array("k", kGgufText, uint64_t{1} << 60, "xxxxxxxx").Build(); }},
    {"array_string_cut",
     kCutOff,
     {"'k'", "string 1 of 2"},
     [] {
       return GgufBuilder()
           .Array("k", kGgufText, 2, GgufString("a") + LittleEndian<uint64_t>(50) + "x")
           .Build();
     }},
    {"array_bools_huge",
     kCutOff,
     {"'k'", "bools"},
     [] { return GgufBuilder().Array("k", kGgufBool, uint64_t{1} << 63, "\1").Build(); }},
    {"array_bool_is_three",
     kInvalid,
     {"'k'", "found 3"},
     [] { return GgufBuilder().Array("k", kGgufBool, 2, "\1\3").Build(); }},
    {"array_integer_beyond_63_bits",
     kInvalid,
     {"'k'", "below 2^63"},
     [] {
       return GgufBuilder()
           .Array("k", kGgufUint64, 1, LittleEndian<uint64_t>(~uint64_t{0}))
           .Build();
     }},
    {"alignment_0",
     kInvalid,
     {"general.alignment", "found 0"},
     [] { return WithAlignment(kGgufUint32, LittleEndian<uint32_t>(0)); }},
    {"alignment_24",
     kInvalid,
     {"power of two", "found 24"},
     [] { return WithAlignment(kGgufUint32, LittleEndian<uint32_t>(24)); }},
    {"alignment_4",
     kInvalid,
     {"from 8", "found 4"},
     [] { return WithAlignment(kGgufUint32, LittleEndian<uint32_t>(4)); }},
    {"alignment_2_31",
     kInvalid,
     {"1048576", "found 2147483648"},
     [] { return WithAlignment(kGgufUint32, LittleEndian<uint32_t>(1u << 31)); }},
    {"alignment_signed",
     kInvalid,
     {"unsigned integer"},
     [] { return WithAlignment(kGgufInt32, LittleEndian<int32_t>(32)); }},
    {"alignment_text",
     kInvalid,
     {"unsigned integer"},
     [] { return WithAlignment(kGgufText, GgufString("32")); }},
    {"name_empty",
     kInvalid,
     {"1 to 63 bytes", "found 0"},
     [] { return Changed([](auto& b) { b.tensors[0].name = ""; }); }},
    {"name_too_long",
     kInvalid,
     {"1 to 63 bytes", "found 64"},
     [] { return Changed([](auto& b) { b.tensors[0].name = std::string(64, 'n'); }); }},
    {"name_twice",
     kInvalid,
     {"distinct tensor names", "'norm'"},
     [] { return Changed([](auto& b) { b.tensors[1].name = "norm"; }); }},
    {"dimensions_0",
     kInvalid,
     {"'victim'", "1 to 4 dimensions", "found 0"},
     [] { return WithVictim({}, kGgmlF32, 32, 64); }},
    {"dimensions_5",
     kInvalid,
     {"'victim'", "1 to 4 dimensions", "found 5"},
     [] {
       return WithVictim({1, 1, 1, 1, 1}, kGgmlF32, 32, 64);
     }},
    {"dimension_0",
     kInvalid,
     {"'victim'", "2^40", "found 0"},
     [] {
       return WithVictim({8, 0}, kGgmlF32, 32, 64);
     }},
    {"dimension_int64_max",
     kInvalid,
     {"'victim'", "9223372036854775807"},
     [] {
       return WithVictim({INT64_MAX, 2}, kGgmlF32, 32, 64);
     }},
    {"dimension_uint64_max",
     kInvalid,
     {"'victim'", "18446744073709551615"},
     [] { return WithVictim({~uint64_t{0}}, kGgmlF32, 32, 64); }},
    {"product_wraps_to_0",
     kInvalid,
     {"'victim'", "fewer than 2^63 bytes"},
     [] {
       return WithVictim({uint64_t{1} << 32, uint64_t{1} << 32}, kGgmlF32, 32, 64);
     }},
    {"product_wraps_to_64",
     kInvalid,
     {"'victim'", "fewer than 2^63 bytes"},
     [] {
       return WithVictim({uint64_t{1} << 40, uint64_t{1} << 22, 16}, kGgmlF32, 32, 64);
     }},
    {"type_removed", kUnknown, {"'victim'", "id 4"}, [] { return WithVictim({8}, 4, 32, 64); }},
    {"type_known_by_name_only",
     kUnknown,
     {"'victim'", "tq1_0", "id 34"},
     [] { return WithVictim({256}, 34, 32, 128); }},
    {"type_unknown",
     kUnknown,
     {"'victim'", "an unknown one", "id 64"},
     [] { return WithVictim({256}, 64, 32, 128); }},
    {"type_huge",
     kUnknown,
     {"'victim'", "id 4294967295"},
     [] { return WithVictim({256}, ~0u, 32, 128); }},
    {"row_is_no_multiple_of_block",
     kInvalid,
     {"'victim'", "multiple of 256", "q4_K", "found 1408"},
     [] { return WithVictim({1408}, kGgmlQ4_K, 32, 1024); }},
    {"offset_misaligned",
     kInvalid,
     {"'victim'", "multiple of 32", "found 40"},
     [] { return WithVictim({8}, kGgmlF32, 40, 128); }},
    {"offset_beyond_file",
     kCutOff,
     {"'victim'", "offset 4096", "found 64 bytes"},
     [] { return WithVictim({8}, kGgmlF32, 4096, 64); }},
    {"offset_wraps",
     kCutOff,
     {"'victim'", "18446744073709551584"},
     [] { return WithVictim({8}, kGgmlF32, ~uint64_t{31}, 64); }},
    {"tensor_longer_than_file",
     kCutOff,
     {"'victim'", "expected 36 bytes", "found 64 bytes"},
     [] { return WithVictim({9}, kGgmlF32, 32, 64); }},
    {"tensors_overlap",
     kInvalid,
     {"'victim'", "32 shared with tensor 'honest'"},
     [] { return WithVictim({8}, kGgmlF32, 0, 64); }},
    {"tensors_overlap_partly",
     kInvalid,
     {"'experts'", "32 shared with tensor 'norm'"},
     [] { return Changed([](auto& b) { b.tensors[1].offset = 64; }); }},
    {"no_data_section",
     kCutOff,
     {"'norm'", "found 0 bytes"},
     [] { return Changed([](auto& b) { b.data_bytes = 0; }); }},
};

class HostileGguf : public testing::TestWithParam<size_t> {};

TEST_P(HostileGguf, IsRefusedInOneSentence) {
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

INSTANTIATE_TEST_SUITE_P(AllCases, HostileGguf, testing::Range<size_t>(0, kHostileFiles.size()),
                         [](const auto& info) { return kHostileFiles[info.param].name; });

}  // namespace
}  // namespace tandem
