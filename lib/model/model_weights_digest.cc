#include "lib/model/model_weights_digest.h"

#include <openssl/evp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "lib/base/check.h"
#include "lib/model/config_fields.h"
#include "lib/model/model_weights_names.h"

namespace tandem {
namespace {

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    TANDEM_CHECK(context_ != nullptr);
    TANDEM_CHECK_EQ(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr), 1);
  }
  void Add(const void* bytes, size_t size) {
    TANDEM_CHECK_EQ(EVP_DigestUpdate(context_.get(), bytes, size), 1);
  }
  void Add(const std::string& text) { Add(text.data(), text.size()); }
  std::string Hex() {
    unsigned char raw[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    TANDEM_CHECK_EQ(EVP_DigestFinal_ex(context_.get(), raw, &size), 1);
    return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(raw), size));
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

void AddSamples(const TensorView& tensor, int64_t samples, Sha256& hash) {
  const int64_t bytes = tensor.size_bytes;
  if (bytes <= samples * kDigestSampleBytes) {
    hash.Add(tensor.data, bytes);
    return;
  }
  const int64_t room = bytes - kDigestSampleBytes;
  for (int64_t i = 0; i < samples; ++i) {
    hash.Add(tensor.data + room / (2 * samples) * (2 * i + 1), kDigestSampleBytes);
  }
}

// Tells the kernel how the files' mappings are used next. Without kRandom each sample of a
// cold file would read ahead 128 KiB: gigabytes for a model with 90 000 tensors. Best effort: a
// refusal only costs time.
void AdviseAll(const TensorSource& source, int advice) {
  std::map<std::string, std::pair<uintptr_t, uintptr_t>> ranges;
  for (const TensorView& tensor : source.tensors()) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.data);
    const uintptr_t end = begin + tensor.size_bytes;
    auto [it, fresh] = ranges.try_emplace(tensor.file, begin, end);
    if (!fresh) it->second = {std::min(it->second.first, begin), std::max(it->second.second, end)};
  }
  const uintptr_t page_mask = ~(static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)) - 1);
  for (const auto& [file, range] : ranges) {
    const uintptr_t begin = range.first & page_mask;
    madvise(reinterpret_cast<void*>(begin), range.second - begin, advice);
  }
}

// The tensors that `wanted` lets through, in the order of their names.
void AddTensors(const TensorSource& source, const std::function<bool(const TensorView&)>& wanted,
                Sha256& hash) {
  std::vector<const TensorView*> tensors;
  for (const TensorView& tensor : source.tensors()) {
    if (wanted(tensor)) tensors.push_back(&tensor);
  }
  std::sort(tensors.begin(), tensors.end(),
            [](const auto* a, const auto* b) { return a->name < b->name; });
  const int64_t samples = DigestSamplesPerTensor(static_cast<int64_t>(tensors.size()));
  AdviseAll(source, MADV_RANDOM);
  for (const TensorView* tensor : tensors) {
    hash.Add(absl::StrCat(tensor->name, " ", NameOf(tensor->dtype), " ",
                          absl::StrJoin(tensor->shape, ","), " ", tensor->size_bytes, "\n"));
    AddSamples(*tensor, samples, hash);
  }
  AdviseAll(source, MADV_NORMAL);
  // Each sample has brought the 64 KiB around it into this process's memory: give them back.
  AdviseAll(source, MADV_DONTNEED);
}

}  // namespace

int64_t DigestSamplesPerTensor(int64_t tensor_count) {
  constexpr int64_t kSamplesInAll = 8192;
  return std::clamp<int64_t>(kSamplesInAll / std::max<int64_t>(tensor_count, 1), 1, 8);
}

std::string WeightsDigest(const ModelConfig& config, const TensorSource& source) {
  Sha256 hash;
  hash.Add("tandem-weights-1\n");
  hash.Add(CanonicalConfigText(config));
  AddTensors(
      source, [](const TensorView&) { return true; }, hash);
  return hash.Hex();
}

std::string WeightsDigest(const ModelConfig& config, const TensorSource& dense,
                          const TensorSource& experts) {
  const auto of_experts = [](const TensorSource& source) {
    return [&](const TensorView& tensor) { return IsRoutedExpertName(source.kind(), tensor.name); };
  };
  Sha256 hash;
  hash.Add("tandem-weights-2\n");
  hash.Add(CanonicalConfigText(config));
  hash.Add("dense\n");
  AddTensors(dense, std::not_fn(of_experts(dense)), hash);
  hash.Add("experts\n");
  AddTensors(experts, of_experts(experts), hash);
  return hash.Hex();
}

}  // namespace tandem
