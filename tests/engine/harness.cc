#include "tests/engine/harness.h"

#include <cstdlib>
#include <fstream>
#include <random>

#include "absl/time/clock.h"
#include "lib/base/check.h"
#include "nlohmann/json.hpp"

namespace tandem::gpu_worker {
namespace {

std::vector<std::vector<double>> ReadLogits(const std::string& path, size_t rows, size_t vocab) {
  std::ifstream file(path, std::ios::binary);
  std::vector<std::vector<double>> logits(rows, std::vector<double>(vocab));
  for (std::vector<double>& row : logits) {
    file.read(reinterpret_cast<char*>(row.data()), static_cast<std::streamsize>(vocab * 8));
  }
  TANDEM_CHECK(file.good());
  return logits;
}

std::unique_ptr<Backend> HostBackendOf(const ModelWeights& weights, const HarnessOptions& o) {
  HostBackendOptions options = {o.precision, o.attention, o.kv_pages,
                                o.rows_max,  o.threads,   o.linear};
  options.ranks = o.ranks;
  return MakeHostBackend(weights, options).value();
}

}  // namespace

std::string SourcePath(const std::string& relative) {
  const char* root = std::getenv("TANDEM_SOURCE_DIR");
  return (root == nullptr ? std::string(".") : std::string(root)) + "/" + relative;
}

const std::vector<std::string>& GoldenNames() {
  static const std::vector<std::string> names = {"v2_lite", "v2", "v3", "kimi_k2", "moonlight"};
  return names;
}

GoldenModel LoadGolden(const std::string& name) {
  const std::string folder = SourcePath("tests/golden/logits/" + name);
  GoldenModel golden;
  golden.name = name;
  absl::StatusOr<ModelWeights> weights = LoadModel(folder);
  if (!weights.ok()) base::CheckFailed(__FILE__, __LINE__, weights.status().ToString());
  golden.weights = *std::move(weights);
  std::ifstream file(folder + "/expected.json");
  const nlohmann::json expected = nlohmann::json::parse(file);
  golden.tokens = expected["tokens"].get<std::vector<uint32_t>>();
  golden.prompt_tokens = expected["prompt_length"].get<int64_t>();
  golden.logits = ReadLogits(folder + "/logits.f64", golden.tokens.size(),
                             static_cast<size_t>(golden.weights.config.vocab_size));
  for (const auto& [layer, rows] : expected["experts"].items()) {
    golden.experts[std::stoll(layer)] = rows.get<std::vector<std::vector<uint32_t>>>();
  }
  return golden;
}

Harness::Harness(const ModelWeights& weights, const HarnessOptions& o)
    : cluster(weights, o.workers, o.replicas),
      pool({[this] { return cluster.placement(); },
            [this](uint64_t epoch_seen, absl::Duration wait_max) {
              if (cluster.placement()->epoch() > epoch_seen) return true;
              absl::SleepFor(wait_max);
              return false;
            },
            [this](const std::string& address) { return cluster.Connect(address); }, o.local}),
      link(pool, {weights.digest, o.patience}),
      backend(o.make_backend != nullptr ? o.make_backend(weights) : HostBackendOf(weights, o)),
      engine(weights.config, *backend, &link, o.forward),
      forward(weights.config, *backend, &link, o.forward),
      config_(weights.config),
      next_page_(static_cast<uint32_t>(o.kv_pages)) {}

LogitRows Harness::Run(const std::vector<Piece>& pieces, const RouterProbe& probe) {
  StepBatch step;
  std::vector<int64_t> owners;
  for (const Piece& piece : pieces) {
    int64_t& length = lengths_[piece.sequence];
    std::vector<uint32_t>& pages = pages_[piece.sequence];
    const int64_t rows = static_cast<int64_t>(piece.tokens.size());
    while (static_cast<int64_t>(pages.size()) * kPageTokens < length + rows) {
      TANDEM_CHECK_GT(next_page_, 0u);
      pages.push_back(--next_page_);
    }
    step.segments.push_back({piece.kind, step.rows(), rows, length, {}});
    for (int64_t i = 0; i < rows; ++i) {
      step.token_ids.push_back(piece.tokens[i]);
      step.positions.push_back(length + i);
      owners.push_back(piece.sequence);
    }
    length += rows;
  }
  for (size_t i = 0; i < pieces.size(); ++i) step.segments[i].pages = pages_[pieces[i].sequence];
  std::vector<absl::Status> row_status;
  const absl::Status status =
      forward.Run(step, owners, absl::Now() + absl::Seconds(60), &row_status, probe);
  TANDEM_CHECK(status.ok());
  for (const absl::Status& row : row_status) TANDEM_CHECK(row.ok());
  LogitRows logits;
  std::vector<float> row;
  for (int64_t r = 0; r < step.rows(); ++r) {
    forward.ComputeLogits(std::vector<int64_t>{r}).Rows(std::vector<int64_t>{0}, &row);
    logits.push_back(row);
  }
  return logits;
}

std::vector<uint32_t> RandomTokens(int64_t count, int64_t vocab, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint32_t> tokens(count);
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(random() % vocab);
  return tokens;
}

}  // namespace tandem::gpu_worker
