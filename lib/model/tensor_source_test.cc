// Opening models from the file system: folders, split and sharded models, and what other packages
// wrote.
#include "lib/model/tensor_source.h"

#include <gtest/gtest.h>

#include "lib/model/container_builders.h"
#include "lib/model/gguf_reader.h"
#include "lib/tensor/golden_test_support.h"

namespace tandem {
namespace {

void ExpectError(const std::string& path, absl::StatusCode code,
                 const std::vector<std::string>& parts) {
  const absl::Status status = TensorSource::Open(path).status();
  EXPECT_EQ(status.code(), code) << status;
  for (const std::string& part : parts) {
    EXPECT_NE(std::string(status.message()).find(part), std::string::npos) << part << "\n"
                                                                           << status;
  }
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kNotFound = absl::StatusCode::kNotFound;

void ExpectTensors(const TensorSource& source, const nlohmann::json& expected) {
  ASSERT_EQ(source.tensors().size(), expected.size());
  for (const nlohmann::json& entry : expected) {
    const TensorView* tensor = source.Find(entry["name"].get<std::string>());
    ASSERT_NE(tensor, nullptr) << entry;
    EXPECT_EQ(NameOf(tensor->dtype), entry["dtype"].get<std::string>());
    EXPECT_EQ(tensor->shape, entry["shape"].get<std::vector<int64_t>>()) << entry;
    EXPECT_EQ(Sha256(std::span(tensor->data, tensor->size_bytes)),
              entry["sha256"].get<std::string>())
        << entry;
  }
}

void ExpectTinyMetadata(const Metadata& metadata) {
  EXPECT_EQ(*metadata.GetString("general.architecture"), "deepseek2");
  EXPECT_EQ(*metadata.GetInt("deepseek2.block_count"), 2);
  EXPECT_EQ(*metadata.GetInt("test.u8"), 200);
  EXPECT_EQ(*metadata.GetInt("test.i8"), -100);
  EXPECT_EQ(*metadata.GetInt("test.u16"), 60000);
  EXPECT_EQ(*metadata.GetInt("test.i16"), -30000);
  EXPECT_EQ(*metadata.GetInt("test.i32"), -2000000000);
  EXPECT_EQ(std::get<uint64_t>(*metadata.Find("test.u64")), ~uint64_t{0});
  EXPECT_EQ(*metadata.GetInt("test.i64"), -(int64_t{1} << 62));
  EXPECT_EQ(*metadata.GetDouble("test.f32"), static_cast<double>(0.1f));
  EXPECT_EQ(*metadata.GetDouble("test.f64"), 0.1);
  EXPECT_EQ(*metadata.GetBool("test.bool"), true);
  EXPECT_EQ(*metadata.GetString("test.string"), "gr\u00fc\u00dfe \u2603");
  EXPECT_EQ(*metadata.GetInts("test.ints"), (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(std::get<std::vector<double>>(*metadata.Find("test.floats")),
            (std::vector<double>{0.5, -0.25}));
  EXPECT_EQ(std::get<std::vector<bool>>(*metadata.Find("test.bools")),
            (std::vector<bool>{true, false, true}));
  EXPECT_EQ(*metadata.GetStrings("test.strings"), (std::vector<std::string>{"a", "", "\u2603"}));
}

TEST(TensorSourceGolden, GgufOfTheGgufPackage) {
  const auto source = TensorSource::Open(GoldenPath("tiny.gguf"));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->kind(), ContainerKind::kGguf);
  ExpectTensors(**source, ReadManifest()["gguf"]);
  ExpectTinyMetadata((*source)->metadata());
}

TEST(TensorSourceGolden, SplitGgufOfTheGgufPackage) {
  const std::vector<std::string> parts = ReadManifest()["gguf_parts"];
  const auto source = TensorSource::Open(GoldenPath(parts[0]));
  ASSERT_TRUE(source.ok()) << source.status();
  ASSERT_EQ((*source)->files().size(), parts.size());
  EXPECT_EQ((*source)->files()[2], GoldenPath(parts[2]));
  ExpectTensors(**source, ReadManifest()["gguf"]);
  ExpectTinyMetadata((*source)->metadata());
  EXPECT_EQ((*source)->Find("output.weight")->file, GoldenPath(parts[2]));
}

TEST(TensorSourceGolden, SafetensorsOfTheSafetensorsPackage) {
  const auto source = TensorSource::Open(GoldenPath("tiny.safetensors"));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->kind(), ContainerKind::kSafetensors);
  ExpectTensors(**source, ReadManifest()["safetensors"]);
  EXPECT_EQ(*(*source)->metadata().GetString("format"), "pt");
  // fp8 weights come with one scale per 128 x 128 block: [ceil(130/128), ceil(200/128)].
  const TensorView* scales = (*source)->Find("model.layers.0.mlp.gate_proj.weight_scale_inv");
  ASSERT_NE(scales, nullptr);
  float values[4];
  std::memcpy(values, scales->data, sizeof values);
  EXPECT_EQ(values[0], 0.5f);
  EXPECT_EQ(values[3], 1.0f);
}

std::string PlainGguf() { return GgufBuilder().Add("t", {8}, kGgmlF32, 0, 32).Build(); }

// What is read at PlaceOf is what is mapped, whichever file a tensor lies in, slices too.
void ExpectPlacesHoldTheBytes(const std::string& path) {
  const auto source = TensorSource::Open(path);
  ASSERT_TRUE(source.ok()) << source.status();
  const auto expect_same = [&](const TensorView& view) {
    const FilePlace place = (*source)->PlaceOf(view);
    EXPECT_EQ(place.file->path(), view.file);
    std::vector<std::byte> read(view.size_bytes);
    ASSERT_TRUE(place.file->ReadAt(place.offset, read).ok());
    EXPECT_EQ(std::memcmp(read.data(), view.data, read.size()), 0) << view.name;
  };
  for (const TensorView& view : (*source)->tensors()) {
    expect_same(view);
    if (view.shape.size() >= 2) expect_same(view.Slice(view.shape.front() - 1));
  }
}

TEST(TensorSourceGolden, PlacesHoldTheBytes) {
  const nlohmann::json manifest = ReadManifest();
  ExpectPlacesHoldTheBytes(GoldenPath("tiny.gguf"));
  ExpectPlacesHoldTheBytes(GoldenPath(manifest["gguf_parts"][0]));
}

TEST(TensorSourceDeathTest, PlaceOfAForeignTensor) {
  const TemporaryFolder folder;
  const auto source = TensorSource::Open(folder.Write("m.gguf", PlainGguf()));
  ASSERT_TRUE(source.ok()) << source.status();
  const float values[8] = {};
  TensorView foreign = *(*source)->Find("t");
  foreign.data = reinterpret_cast<const std::byte*>(values);
  EXPECT_DEATH((*source)->PlaceOf(foreign), "another source");
}

TEST(TensorSource, FindsByNameOrNot) {
  const TemporaryFolder folder;
  const auto source = TensorSource::Open(folder.Write("m.gguf", PlainGguf()));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->Find("t")->name, "t");
  EXPECT_EQ((*source)->Find("u"), nullptr);
}

TEST(TensorSource, FolderWithOneModelOpens) {
  const TemporaryFolder folder;
  const std::string file = folder.Write("any name.gguf", PlainGguf());
  folder.Write("config.json", "{}");
  const auto source = TensorSource::Open(folder.path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->files(), std::vector<std::string>{file});
}

TEST(TensorSource, WhatIsNoModelIsRefused) {
  const TemporaryFolder folder;
  ExpectError(folder.path(), kNotFound, {folder.path(), "model.safetensors", "found none"});
  ExpectError(folder.path() + "/absent.gguf", kNotFound, {"absent.gguf"});
  ExpectError(folder.Write("weights.pt", "PK"), kInvalid, {"weights.pt", "expected a .gguf"});
  ExpectError(folder.Write("zero.gguf", ""), absl::StatusCode::kDataLoss, {"zero.gguf", "GGUF"});
  std::filesystem::create_directory(folder.path() + "/f");
  ExpectError(folder.path() + "/f/x.safetensors", kNotFound, {"x.safetensors"});
}

TEST(TensorSource, FolderWithTwoModelsIsRefused) {
  const TemporaryFolder folder;
  folder.Write("a.gguf", PlainGguf());
  folder.Write("model.safetensors", BuildSafetensors("{}", 0));
  ExpectError(folder.path(), kInvalid,
              {"expected one model, found 2", "a.gguf, model.safetensors"});
}

TEST(SplitName, TakesNamesApart) {
  SplitName name;
  ASSERT_TRUE(SplitName::Parse("R1-UD-00002-of-00003.gguf", &name));
  EXPECT_EQ(name.prefix, "R1-UD");
  EXPECT_EQ(name.part, 2);
  EXPECT_EQ(name.parts, 3);
  EXPECT_EQ(name.FileName(3), "R1-UD-00003-of-00003.gguf");
  for (const char* other :
       {"m.gguf", "-00001-of-00002.gguf", "m-0001-of-0002.gguf", "m-00001-of-0000x.gguf",
        "m-00001_of_00002.gguf", "m-00001-of-00002.safetensors"}) {
    EXPECT_FALSE(SplitName::Parse(other, &name)) << other;
  }
}

// Part `number` (from 0) of `count`, with one tensor of its own, in a model that says to have
// `tensors`.
GgufBuilder Part(int number, int count, int tensors) {
  GgufBuilder builder;
  builder.Uint16("split.no", number)
      .Uint16("split.count", count)
      .Int32("split.tensors.count", tensors);
  builder.Add("t" + std::to_string(number), {8}, kGgmlF32, 0, 32);
  return builder;
}

struct SplitFolder {
  TemporaryFolder folder;
  std::string first = folder.path() + "/m-00001-of-00002.gguf";

  SplitFolder(const GgufBuilder& a, const GgufBuilder& b) {
    folder.Write("m-00001-of-00002.gguf", a.Build());
    folder.Write("m-00002-of-00002.gguf", b.Build());
  }
};

TEST(SplitGguf, OpensFromItsFirstPartOrItsFolder) {
  const SplitFolder split(Part(0, 2, 2), Part(1, 2, 2));
  for (const std::string& path : {split.first, split.folder.path()}) {
    const auto source = TensorSource::Open(path);
    ASSERT_TRUE(source.ok()) << source.status();
    EXPECT_EQ((*source)->tensors().size(), 2u);
    EXPECT_EQ((*source)->files().size(), 2u);
  }
}

TEST(SplitGguf, FirstPartMayHoldMetadataOnly) {
  GgufBuilder first;
  first.Uint16("split.no", 0).Uint16("split.count", 2).Int32("split.tensors.count", 1);
  const SplitFolder split(first, Part(1, 2, 1));
  EXPECT_TRUE(TensorSource::Open(split.first).ok());
}

TEST(SplitGguf, MissingPartIsNamed) {
  const SplitFolder split(Part(0, 2, 2), Part(1, 2, 2));
  std::filesystem::remove(split.folder.path() + "/m-00002-of-00002.gguf");
  ExpectError(split.first, kNotFound, {"m-00002-of-00002.gguf"});
}

TEST(SplitGguf, OtherPartThanTheFirstIsRefused) {
  const SplitFolder split(Part(0, 2, 2), Part(1, 2, 2));
  ExpectError(split.folder.path() + "/m-00002-of-00002.gguf", kInvalid,
              {"expected the first part", "part 2 of 2"});
}

TEST(SplitGguf, KeysMustAgreeWithNamesAndEachOther) {
  ExpectError(SplitFolder(Part(0, 3, 2), Part(1, 2, 2)).first, kInvalid,
              {"00001-of", "split.count = 2", "found 3"});
  ExpectError(SplitFolder(Part(1, 2, 2), Part(1, 2, 2)).first, kInvalid,
              {"00001-of", "split.no = 0", "found 1"});
  ExpectError(SplitFolder(Part(0, 2, 2), Part(0, 2, 2)).first, kInvalid, {"00002-of", "'t0'"});
  ExpectError(SplitFolder(Part(0, 2, 2), Part(7, 2, 2)).first, kInvalid,
              {"00002-of", "split.no = 1", "found 7"});
  ExpectError(SplitFolder(Part(0, 2, 2), Part(1, 9, 2)).first, kInvalid,
              {"00002-of", "split.count = 2", "found 9"});
  ExpectError(SplitFolder(Part(0, 2, 5), Part(1, 2, 5)).first, kInvalid,
              {"00001-of", "5", "found 2"});
  ExpectError(SplitFolder(Part(0, 2, 2), GgufBuilder()).first, kInvalid,
              {"00002-of", "split.count = 2", "found 1"});
  ExpectError(SplitFolder(GgufBuilder(), Part(1, 2, 2)).first, kInvalid,
              {"00001-of", "split.count = 2", "found 1"});
}

TEST(SplitGguf, TensorInTwoPartsNamesBothFiles) {
  GgufBuilder second = Part(1, 2, 2);
  second.tensors[0].name = "t0";
  ExpectError(SplitFolder(Part(0, 2, 2), second).first, kInvalid, {"00002-of", "'t0'", "00001-of"});
}

TEST(SplitGguf, PartUnderAnotherNameIsRefused) {
  const TemporaryFolder folder;
  ExpectError(folder.Write("renamed.gguf", Part(0, 2, 2).Build()), kInvalid,
              {"renamed.gguf", "-00001-of-00002"});
  ExpectError(folder.Write("many.gguf", Part(0, 20000, 2).Build()), kInvalid,
              {"1 to 10000", "found 20000"});
  GgufBuilder text;
  text.Text("split.count", "2");
  ExpectError(folder.Write("text.gguf", text.Build()), kInvalid, {"text.gguf", "'split.no'"});
}

constexpr char kShardA[] = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
constexpr char kShardB[] = R"({"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
constexpr char kIndex[] = R"({"metadata":{"total_size":16},)"
                          R"("weight_map":{"b":"model-2.safetensors","a":"model-1.safetensors"}})";

struct ShardFolder {
  TemporaryFolder folder;

  explicit ShardFolder(const std::string& index, const std::string& second = kShardB) {
    folder.Write("model.safetensors.index.json", index);
    folder.Write("model-1.safetensors", BuildSafetensors(kShardA, 8));
    folder.Write("model-2.safetensors", BuildSafetensors(second, 8));
  }
};

TEST(ShardedSafetensors, OpensByItsIndex) {
  const ShardFolder shards(kIndex);
  const auto source = TensorSource::Open(shards.folder.path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->kind(), ContainerKind::kSafetensors);
  EXPECT_EQ((*source)->files().size(), 2u);
  EXPECT_EQ((*source)->Find("b")->file, shards.folder.path() + "/model-2.safetensors");
}

TEST(ShardedSafetensors, IndexAndShardsMustAgree) {
  ExpectError(ShardFolder(kIndex, R"({"c":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})")
                  .folder.path(),
              kInvalid, {"model-2.safetensors", "'c'"});
  ExpectError(ShardFolder(R"({"weight_map":{"b":"model-2.safetensors","a":"model-1.safetensors",)"
                          R"("z":"model-1.safetensors"}})")
                  .folder.path(),
              kInvalid, {"model-1.safetensors", "expected tensor 'z'"});
  ExpectError(ShardFolder(R"({"weight_map":{"a":"model-3.safetensors"}})").folder.path(), kNotFound,
              {"model-3.safetensors"});
}

TEST(ShardedSafetensors, BadIndexIsRefused) {
  ExpectError(ShardFolder("{").folder.path(), kInvalid, {"index.json", "expected JSON"});
  ExpectError(ShardFolder("[]").folder.path(), kInvalid, {"index.json", "'weight_map'"});
  ExpectError(ShardFolder(R"({"weight_map":{}})").folder.path(), kInvalid,
              {"index.json", "found 0"});
  ExpectError(ShardFolder(R"({"weight_map":{"a":7}})").folder.path(), kInvalid,
              {"index.json", "'a'", "same folder"});
  for (const char* name : {"../x.safetensors", "/etc/passwd", "..", ""}) {
    ExpectError(ShardFolder(std::string(R"({"weight_map":{"a":")") + name + "\"}}").folder.path(),
                kInvalid, {"index.json", "'a'", "same folder"});
  }
  ExpectError(ShardFolder(R"({"weight_map":{"a":"model-1.safetensors","a":"model-2.safetensors"}})")
                  .folder.path(),
              kInvalid, {"index.json", "'a' twice"});
}

}  // namespace
}  // namespace tandem
