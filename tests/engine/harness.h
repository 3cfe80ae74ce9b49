// Harness: a whole GPU worker in a test, from a golden model folder: backend, engine, and
// in-process expert workers.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gpu_worker/backend/host/host_backend.h"
#include "gpu_worker/engine/engine.h"
#include "gpu_worker/experts/link.h"
#include "tests/engine/in_process_worker.h"

namespace tandem::gpu_worker {

// Path below the source tree, wherever the test runs.
std::string SourcePath(const std::string& relative);

// A golden model of tests/golden/logits with what the oracle computed.
struct GoldenModel {
  std::string name;
  ModelWeights weights;
  std::vector<uint32_t> tokens;
  int64_t prompt_tokens = 0;
  std::vector<std::vector<double>> logits;  // [tokens][vocab]
  std::map<int64_t, std::vector<std::vector<uint32_t>>>
      experts;  // layer -> [tokens] ids, ascending
};

const std::vector<std::string>& GoldenNames();
GoldenModel LoadGolden(const std::string& name);

struct HarnessOptions {
  Precision precision = Precision::kF32;
  AttentionKernel attention = AttentionKernel::kFlash;
  LinearFormat linear;
  int threads = 1;
  int workers = 1;
  int replicas = 1;
  int64_t kv_pages = 64;
  int64_t rows_max = 512;
  absl::Duration patience = absl::Seconds(5);
  ForwardOptions forward = {};
  int ranks = 1;
  LocalReplicas local = {};
  // Makes the backend instead of the above; null: the host's.
  std::function<std::unique_ptr<Backend>(const ModelWeights&)> make_backend = nullptr;
};

// Tokens of one sequence in one pass.
struct Piece {
  int sequence = 0;
  RowKind kind = RowKind::kPrefill;
  std::vector<uint32_t> tokens;
};

using LogitRows = std::vector<std::vector<float>>;  // [rows][vocab]

class Harness {
 public:
  Harness(const ModelWeights& weights, const HarnessOptions& options);

  // Runs one pass below the engine: sequences grow from position 0 by their pieces. CHECKs that
  // every row succeeds.
  LogitRows Run(const std::vector<Piece>& pieces, const RouterProbe& probe = {});

  InProcessCluster cluster;
  WorkerPool pool;
  ExpertLink link;
  std::unique_ptr<Backend> backend;
  Engine engine;
  Forward forward;

 private:
  const ModelConfig config_;
  // Sequences of Run. Pages are taken from the top, so that page numbers differ from positions.
  std::map<int, std::vector<uint32_t>> pages_;
  std::map<int, int64_t> lengths_;
  uint32_t next_page_;
};

// `count` random token ids below `vocab`.
std::vector<uint32_t> RandomTokens(int64_t count, int64_t vocab, uint64_t seed);

}  // namespace tandem::gpu_worker
