#include "cpu_worker/experts/expert_store.h"

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <set>
#include <string>

#include "cpu_worker/experts/self_test.h"
#include "cpu_worker/experts/test_experts.h"
#include "cpu_worker/server/test_model.h"
#include "gtest/gtest.h"
#include "lib/kernels/weights.h"
#include "lib/model/container_builders.h"

namespace tandem::cpu_worker {
namespace {

bool Always() { return true; }

absl::StatusOr<std::unique_ptr<ExpertStore>> OpenStore(const std::string& path,
                                                       int64_t memory_bytes_max = 0) {
  return ExpertStore::Open(
      {.model_path = path, .load = {}, .memory_bytes_max = memory_bytes_max, .load_threads = 2},
      kernels::ActiveTable());
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
  EXPECT_EQ(first->weight_bytes(), ExpertBytes(*first->Find(1, 0)) +
                                       ExpertBytes(*first->Find(1, 5)) +
                                       ExpertBytes(*first->Find(2, 7)));

  ASSERT_TRUE((*store)->Place({{2, 7}, {2, 1}}, Always).ok());
  EXPECT_EQ((*store)->held()->Find(1, 0), nullptr);
  EXPECT_NE((*store)->held()->Find(2, 1), nullptr);
  EXPECT_NE(first->Find(1, 0), nullptr) << "a set in use changed";
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
}

// A scale that is not finite in one block: the expert is refused by name, others load.
TEST(ExpertStore, NamesTheDamagedTensor) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  WriteTestModel(path, "q8_0");
  int64_t offset = 0;
  {
    const auto store = OpenStore(path);
    ASSERT_TRUE(store.ok());
    ASSERT_TRUE((*store)->Place({{1, 3}}, Always).ok());
    const Matrix& down = (*store)->held()->Find(1, 3)->down;
    const auto source = TensorSource::Open(path);
    ASSERT_TRUE(source.ok());
    const TensorView* stacked = (*source)->Find("blk.1.ffn_down_exps.weight");
    ASSERT_NE(stacked, nullptr);
    // The tensor's place in the file: the end of the file less what follows is not known here, so
    // search for its bytes.
    std::ifstream in(path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    offset = static_cast<int64_t>(
        bytes.find(std::string(reinterpret_cast<const char*>(down.view.data), 256)));
    ASSERT_NE(offset, -1);
  }
  {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(offset +
               34 * 8);  // the first block of the second row (rows of 256 values: 8 blocks)
    const char infinity[2] = {0x00, 0x7c};
    file.write(infinity, 2);
  }
  const auto store = OpenStore(path);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE((*store)->Place({{1, 2}}, Always).ok());
  const absl::Status status = (*store)->Place({{1, 2}, {1, 3}}, Always);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(status.message().find("ffn_down_exps"), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find("row 1"), absl::string_view::npos) << status;
  EXPECT_EQ((*store)->held()->keys(), (std::set<ExpertKey>{{1, 2}}));
}

TEST(ExpertStore, RefusesAModelWithoutExperts) {
  const TemporaryFolder folder;
  const auto store = OpenStore(folder.path() + "/absent.gguf");
  EXPECT_FALSE(store.ok());
}

// Resident pages of the mappings of `path`, from /proc/self/smaps.
int64_t ResidentKiB(const std::string& path) {
  std::ifstream smaps("/proc/self/smaps");
  std::string line;
  bool ours = false;
  int64_t total_kib = 0;
  while (std::getline(smaps, line)) {
    if (line.find('-') != std::string::npos && line.find(" r") != std::string::npos) {
      ours = line.find(path) != std::string::npos;
    }
    int64_t kib = 0;
    if (ours && std::sscanf(line.c_str(), "Rss: %ld kB", &kib) == 1) total_kib += kib;
  }
  return total_kib;
}

TEST(ExpertStore, GivesMemoryBack) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  WriteTestModel(path, "f32");  // 768 KiB an expert
  const auto store = OpenStore(path);
  ASSERT_TRUE(store.ok()) << store.status();
  std::set<ExpertKey> all;
  for (uint32_t layer : {1u, 2u}) {
    for (uint32_t e = 0; e < kTestExperts; ++e) all.insert({layer, e});
  }
  ASSERT_TRUE((*store)->Place(all, Always).ok());
  const int64_t held_kib = (*store)->held()->weight_bytes() / 1024;
  const int64_t full_kib = ResidentKiB(path);
  EXPECT_GE(full_kib, held_kib);
  ASSERT_TRUE((*store)->Place({}, Always).ok());
  EXPECT_LT(ResidentKiB(path), full_kib - held_kib * 3 / 4);
}

TEST(SelfTest, PassesForEveryTypeAndTable) {
  std::mt19937_64 random(1);
  for (int i = 0; i < static_cast<int>(DType::kCount); ++i) {
    const DType type = static_cast<DType>(i);
    if (!kernels::CheckWeightType(type, 256).ok()) continue;
    const TestExpert expert = MakeTestExpert(type, type, type, 512, 256, random);
    for (const kernels::KernelTable* table : kernels::SupportedTables()) {
      const absl::Status status = SelfTestExpert(*table, expert.weights);
      EXPECT_TRUE(status.ok()) << status;
    }
  }
}

// A kernel that is wrong by one code in one place must not pass.
TEST(SelfTest, FindsAWrongKernel) {
  std::mt19937_64 random(2);
  const TestExpert expert =
      MakeTestExpert(DType::kQ8_0, DType::kQ8_0, DType::kQ8_0, 256, 256, random);
  static kernels::UnpackRow right;
  kernels::KernelTable wrong = kernels::ActiveTable();
  right = wrong.unpack[static_cast<int>(DType::kQ8_0)];
  wrong.unpack[static_cast<int>(DType::kQ8_0)] = [](const std::byte* src, int64_t cols,
                                                    const kernels::UnpackedRow& out) {
    right(src, cols, out);
    for (int64_t k = 0; k < cols; k += 64) out.codes[k] = static_cast<int8_t>(~out.codes[k]);
  };
  const absl::Status status = SelfTestExpert(wrong, expert.weights);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(status.message().find("q8_0"), absl::string_view::npos) << status;
}

}  // namespace
}  // namespace tandem::cpu_worker
