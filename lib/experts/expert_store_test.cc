#include "lib/experts/expert_store.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "lib/experts/self_test.h"
#include "lib/experts/test_experts.h"
#include "lib/experts/test_model.h"
#include "lib/kernels/weights.h"
#include "lib/model/container_builders.h"

// GCC defines names, clang answers questions.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TANDEM_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TANDEM_SANITIZED 1
#endif
#endif

namespace tandem {
namespace {

#if defined(TANDEM_SANITIZED)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

bool Always() { return true; }

absl::StatusOr<std::unique_ptr<ExpertStore>> OpenStore(const std::string& path,
                                                       int64_t memory_bytes_max = 0) {
  return ExpertStore::Open({.model_path = path,
                            .load = {},
                            .memory_bytes_max = memory_bytes_max,
                            .load_places = std::vector<base::ThreadPlace>(2),
                            .memory_nodes = {}},
                           kernels::ActiveTable());
}

std::set<ExpertKey> AllExperts() {
  std::set<ExpertKey> all;
  for (uint32_t layer : {1u, 2u}) {
    for (uint32_t e = 0; e < kTestExperts; ++e) all.insert({layer, e});
  }
  return all;
}

TEST(ExpertStore, HoldsExactlyWhatIsPlaced) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  WriteTestModel(path, "q4_K_M");
  const auto store = OpenStore(path);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->MoeLayers(), (std::vector<uint32_t>{1, 2}));
  EXPECT_EQ((*store)->held()->Find(1, 0), nullptr);

  ASSERT_TRUE((*store)->Place({{1, 0}, {1, 5}, {2, 7}}, Always).ok());
  const auto first = (*store)->held();
  EXPECT_NE(first->Find(1, 5), nullptr);
  EXPECT_EQ(first->Find(1, 1), nullptr);
  EXPECT_EQ(first->Find(2, 8), nullptr);
  EXPECT_EQ(first->Find(99, 0), nullptr);
  EXPECT_EQ(first->FindSource(1, 1), nullptr);
  EXPECT_EQ(first->weight_bytes(),
            first->Find(1, 0)->bytes() + first->Find(1, 5)->bytes() + first->Find(2, 7)->bytes());
  EXPECT_EQ(first->stored_bytes(), PlacedBytes(*first->FindSource(1, 0)) +
                                       PlacedBytes(*first->FindSource(1, 5)) +
                                       PlacedBytes(*first->FindSource(2, 7)));
  EXPECT_EQ(first->weight_bytes(), PackedBytes(*first->FindSource(1, 0)) +
                                       PackedBytes(*first->FindSource(1, 5)) +
                                       PackedBytes(*first->FindSource(2, 7)));
  EXPECT_EQ((*store)->load_fraction(), 1.0);

  const PackedExpert* const kept = first->Find(2, 7);
  ASSERT_TRUE((*store)->Place({{2, 7}, {2, 1}}, Always).ok());
  EXPECT_EQ((*store)->held()->Find(1, 0), nullptr);
  EXPECT_NE((*store)->held()->Find(2, 1), nullptr);
  EXPECT_EQ((*store)->held()->Find(2, 7), kept) << "what stays is not loaded again";
  EXPECT_NE(first->Find(1, 0), nullptr) << "a set in use changed";
}

void ExpectPackedAsStored(const Matrix& source, const kernels::PackedMatrix& packed) {
  ASSERT_EQ(packed.layout.rows, source.rows());
  ASSERT_EQ(packed.layout.cols, source.cols());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(packed.data) % kernels::kPackedAlign, 0u);
  std::vector<float> panel(kernels::kPanelRows * source.cols()), row(source.cols());
  for (int64_t r = 0; r < source.rows(); ++r) {
    const int64_t in_panel = r % kernels::kPanelRows;
    if (in_panel == 0) {
      kernels::UnpackPanel(packed.layout, packed.panel(r / kernels::kPanelRows), panel.data());
    }
    DequantizeMatrixRow(source, r, row.data());
    ASSERT_EQ(std::memcmp(row.data(), panel.data() + in_panel * source.cols(),
                          row.size() * sizeof(float)),
              0)
        << source.view.name << ", row " << r;
  }
}

void ExpectAllPackedAsStored(const ExpertStore& store) {
  const auto held = store.held();
  EXPECT_EQ(held->experts().size(), 2 * static_cast<size_t>(kTestExperts));
  for (const auto& [key, expert] : held->experts()) {
    const FfnWeights& source = *held->FindSource(key.layer, key.expert);
    ExpectPackedAsStored(source.gate, expert->packed().gate);
    ExpectPackedAsStored(source.up, expert->packed().up);
    ExpectPackedAsStored(source.down, expert->packed().down);
  }
}

TEST(ExpertStore, PacksWhatTheFilesHold) {
  const TemporaryFolder folder;
  for (const char* format : {"q4_K_M", "iq1_s", "bf16"}) {
    const std::string path = folder.path() + "/" + format + ".gguf";
    WriteTestModel(path, format);
    const auto store = OpenStore(path);
    ASSERT_TRUE(store.ok()) << store.status();
    ASSERT_TRUE((*store)->Place(AllExperts(), Always).ok());
    ExpectAllPackedAsStored(**store);
  }
}

// Block scales of fp8 lie in tensors of their own, one value for 128 rows and columns.
TEST(ExpertStore, PacksFp8WithItsBlockScales) {
  const TemporaryFolder folder;
  SynthOptions options;
  options.config = TestConfig();
  options.format = *ParseSynthFormat("f8_e4m3", false);
  options.container = ContainerKind::kSafetensors;
  options.out = folder.path() + "/fp8";
  const auto written = SynthesizeModel(options, [](int64_t, int64_t) { return true; });
  ASSERT_TRUE(written.ok()) << written.status();
  const auto store = OpenStore(options.out);
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_TRUE((*store)->Place(AllExperts(), Always).ok());
  EXPECT_EQ((*store)->held()->Find(1, 0)->gate.layout.fp8_cols, 128);
  ExpectAllPackedAsStored(**store);
}

TEST(ExpertStore, RefusesWhatItCannotHoldAndKeepsWhatItHas) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  WriteTestModel(path, "q8_0");
  const auto probe = OpenStore(path);
  ASSERT_TRUE(probe.ok()) << probe.status();
  const int64_t one = (*probe)->ExpertBytesMax();
  const auto store = OpenStore(path, 2 * one);
  ASSERT_TRUE(store.ok());
  ASSERT_TRUE((*store)->Place({{1, 0}, {1, 1}}, Always).ok());
  EXPECT_EQ((*store)->Place({{1, 0}, {1, 1}, {1, 2}}, Always).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ((*store)->Place({{0, 0}}, Always).code(),
            absl::StatusCode::kOutOfRange);  // dense layer
  EXPECT_EQ((*store)->Place({{1, 8}}, Always).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ((*store)->Place({{2, 0}}, [] { return false; }).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ((*store)->held()->keys(), (std::set<ExpertKey>{{1, 0}, {1, 1}}));
  EXPECT_EQ((*store)->load_fraction(), 1.0);
}

TEST(ExpertStore, StopsInTheMiddleWhenTold) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  WriteTestModel(path, "f32");
  const auto store = OpenStore(path);
  ASSERT_TRUE(store.ok()) << store.status();
  std::atomic<int> asked{0};
  const absl::Status status =
      (*store)->Place(AllExperts(), [&] { return asked.fetch_add(1) < 10; });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
  EXPECT_LE(asked.load(), 12) << "the loading went on";
  EXPECT_TRUE((*store)->held()->experts().empty());
  ASSERT_TRUE((*store)->Place({{1, 0}}, Always).ok());
}

// Where a tensor's bytes begin in its file.
int64_t OffsetOf(const std::string& path, const char* tensor, int64_t slice) {
  const auto source = TensorSource::Open(path);
  TANDEM_CHECK(source.ok());
  return (*source)->PlaceOf((*source)->Find(tensor)->Slice(slice)).offset;
}

// A scale that is not finite in one block: the expert is refused by name, others load.
TEST(ExpertStore, NamesTheDamagedTensor) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  WriteTestModel(path, "q8_0");
  {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    // The first block of row 21 (rows of 256 values: 8 blocks), which is not in the first panel.
    file.seekp(OffsetOf(path, "blk.1.ffn_down_exps.weight", 3) + 21 * 34 * 8);
    const char infinity[2] = {0x00, 0x7c};
    file.write(infinity, 2);
  }
  const auto store = OpenStore(path);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE((*store)->Place({{1, 2}}, Always).ok());
  const absl::Status status = (*store)->Place({{1, 2}, {1, 3}}, Always);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(status.message().find("ffn_down_exps"), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find("row 21"), absl::string_view::npos) << status;
  EXPECT_EQ((*store)->held()->keys(), (std::set<ExpertKey>{{1, 2}}));
}

void ExpectCutShort(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_NE(status.message().find("m.gguf: expected"), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find("the file ends at"), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find("ffn_"), absl::string_view::npos) << status;
}

TEST(ExpertStore, FileThatShrinksAfterOpeningIsAnErrorNotACrash) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  WriteTestModel(path, "q8_0");
  const auto store = OpenStore(path);
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_TRUE((*store)->Place({{1, 0}}, Always).ok());
  const std::vector<std::byte> packed((*store)->held()->Find(1, 0)->gate.data,
                                      (*store)->held()->Find(1, 0)->gate.data + 4096);
  std::filesystem::resize_file(path, 10000);
  ExpectCutShort((*store)->Place({{1, 0}, {1, 1}}, Always));
  // What is held does not depend on the file any more.
  const auto held = (*store)->held();
  EXPECT_EQ(held->keys(), (std::set<ExpertKey>{{1, 0}}));
  EXPECT_EQ(std::memcmp(held->Find(1, 0)->gate.data, packed.data(), packed.size()), 0);
}

TEST(ExpertStore, FileThatShrinksWhileLoadingIsAnErrorNotACrash) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  WriteTestModel(path, "q8_0");
  const auto store = OpenStore(path);
  ASSERT_TRUE(store.ok()) << store.status();
  std::atomic<int> asked{0};
  ExpectCutShort((*store)->Place(AllExperts(), [&] {
    if (asked.fetch_add(1) == 6) std::filesystem::resize_file(path, 10000);
    return true;
  }));
  EXPECT_TRUE((*store)->held()->experts().empty());
}

// The opened file counts, not what its name points to by now.
TEST(ExpertStore, FileThatIsReplacedIsStillTheOneThatWasOpened) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  WriteTestModel(path, "q8_0");
  const auto store = OpenStore(path);
  ASSERT_TRUE(store.ok()) << store.status();
  std::filesystem::remove(path);
  folder.Write("m.gguf", "another file");
  ASSERT_TRUE((*store)->Place(AllExperts(), Always).ok());
  ExpectAllPackedAsStored(**store);
}

TEST(ExpertStore, RefusesAModelWithoutExperts) {
  const TemporaryFolder folder;
  const auto store = OpenStore(folder.path() + "/absent.gguf");
  EXPECT_FALSE(store.ok());
}

// Each layer's experts are even on the nodes, and those that stay are counted.
TEST(ExpertStore, SpreadsEachLayerOverTheMemoryNodes) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  WriteTestModel(path, "q8_0");
  const auto store = ExpertStore::Open(
      {.model_path = path,
       .load = {},
       .memory_bytes_max = 0,
       .load_places = {{}, {}, {.cpus = {}, .node = 1}},
       .memory_nodes = {}},  // this machine may have one node: packing threads decide
      kernels::ActiveTable());
  ASSERT_TRUE(store.ok()) << store.status();
  const auto nodes_of = [&](uint32_t layer) {
    std::vector<int> count(2, 0);
    const auto held = (*store)->held();
    for (uint32_t e = 0; e < kTestExperts; ++e) {
      if (held->Find(layer, e) != nullptr) ++count[held->Find(layer, e)->node];
    }
    return count;
  };
  ASSERT_TRUE((*store)->Place({{1, 0}, {1, 2}, {1, 3}, {2, 4}}, Always).ok());
  EXPECT_EQ(nodes_of(1), (std::vector<int>{2, 1}));
  EXPECT_EQ(nodes_of(2), (std::vector<int>{1, 0}));
  ASSERT_TRUE((*store)->Place(AllExperts(), Always).ok());
  EXPECT_EQ(nodes_of(1), (std::vector<int>{4, 4}));
  EXPECT_EQ(nodes_of(2), (std::vector<int>{4, 4}));
  ExpectAllPackedAsStored(**store);
}

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * base::HugeMemory::PageBytes();
}

// A larger model than the others', so that its memory stands out: 12 MiB an expert, 192 MiB.
void WriteLargeModel(const std::string& path) {
  SynthOptions options;
  options.config = TestConfig();
  options.config.hidden_size = 1024;
  options.config.moe_intermediate_size = 1024;
  options.format = *ParseSynthFormat("f32", false);
  options.out = path;
  const auto written = SynthesizeModel(options, [](int64_t, int64_t) { return true; });
  ASSERT_TRUE(written.ok()) << written.status();
}

TEST(ExpertStore, GivesMemoryBackWhenItsLastUserIsDone) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's shadow memory would be measured";
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  WriteLargeModel(path);
  const auto store = OpenStore(path);
  ASSERT_TRUE(store.ok()) << store.status();
  const int64_t empty = ResidentBytes();
  ASSERT_TRUE((*store)->Place(AllExperts(), Always).ok());
  const int64_t held = (*store)->held()->weight_bytes();
  EXPECT_GE(held, int64_t{190} << 20);
  EXPECT_GE(ResidentBytes() - empty, held);
  // Buffers and threads' stacks; nothing that grows with the experts.
  EXPECT_LE(ResidentBytes() - empty, held + (16 << 20));

  auto in_use = (*store)->held();
  ASSERT_TRUE((*store)->Place({{1, 1}, {1, 3}, {2, 5}}, Always).ok());
  EXPECT_GE(ResidentBytes() - empty, held) << "the old set is still in use";
  in_use.reset();
  const int64_t rest = (*store)->held()->weight_bytes();
  EXPECT_EQ(rest * 16, held * 3);
  EXPECT_LE(ResidentBytes() - empty, rest + (16 << 20));
  ExpectPackedAsStored((*store)->held()->FindSource(2, 5)->down,
                       (*store)->held()->Find(2, 5)->down);
}

TEST(ExpertStore, AFailedPlacementLeavesNoMemoryBehind) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's shadow memory would be measured";
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  WriteLargeModel(path);
  const auto store = OpenStore(path);
  ASSERT_TRUE(store.ok()) << store.status();
  const int64_t before = ResidentBytes();
  std::atomic<int> asked{0};
  EXPECT_EQ((*store)->Place(AllExperts(), [&] { return asked.fetch_add(1) < 150; }).code(),
            absl::StatusCode::kCancelled);
  EXPECT_LE(ResidentBytes() - before, 16 << 20);
}

// Experts smaller than a huge page share them.
TEST(ExpertStore, SmallExpertsLieOnHugePagesToo) {
  std::ifstream enabled("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  if (!std::getline(enabled, line) || line.find("[never]") != std::string::npos) {
    GTEST_SKIP() << "transparent huge pages are switched off here";
  }
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  WriteTestModel(path, "f32");  // 768 KiB an expert, 12 MiB of them
  const auto store = OpenStore(path);
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_TRUE((*store)->Place(AllExperts(), Always).ok());
  EXPECT_GE((*store)->BytesOnHugePages(), (*store)->held()->weight_bytes() / 2);
}

TEST(SelfTest, PassesForEveryTypeAndTable) {
  std::mt19937_64 random(1);
  for (int i = 0; i < static_cast<int>(DType::kCount); ++i) {
    const DType type = static_cast<DType>(i);
    if (!kernels::CheckWeightType(type, 256).ok()) continue;
    const TestExpert expert = MakeTestExpert(type, type, type, 512, 256, random);
    for (const kernels::KernelTable* table : kernels::SupportedTables()) {
      const absl::Status status = SelfTestExpert(*table, expert.weights, expert.packed);
      EXPECT_TRUE(status.ok()) << status;
    }
  }
}

// A kernel that reads one line of codes wrongly must not pass.
TEST(SelfTest, FindsAWrongKernel) {
  std::mt19937_64 random(2);
  const TestExpert expert =
      MakeTestExpert(DType::kQ8_0, DType::kQ8_0, DType::kQ8_0, 256, 256, random);
  static void (*right)(const kernels::PanelArgs& args);
  kernels::KernelTable wrong = kernels::ActiveTable();
  right = wrong.panel[static_cast<int>(DType::kQ8_0)];
  wrong.panel[static_cast<int>(DType::kQ8_0)] = [](const kernels::PanelArgs& args) {
    kernels::AlignedBuffer copy;
    std::byte* panel = copy.Reserve(args.layout->panel_bytes);
    std::memcpy(panel, args.panel, args.layout->panel_bytes);
    // The first line of codes lies behind the first line of scales.
    for (int i = 0; i < 64; ++i) panel[64 + i] = ~panel[64 + i];
    kernels::PanelArgs changed = args;
    changed.panel = panel;
    right(changed);
  };
  const absl::Status status = SelfTestExpert(wrong, expert.weights, expert.packed);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(status.message().find("q8_0"), absl::string_view::npos) << status;
}

}  // namespace
}  // namespace tandem
