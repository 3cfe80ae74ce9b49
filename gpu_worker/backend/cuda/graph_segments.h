// GraphSegments: the calls between two exchanges with the experts, launched as one CUDA graph when
// the same calls have been made before. A segment's calls are collected first; at its end they are
// captured (first time), replayed (the same calls with the same arguments) or simply made (anything
// else), so that a graph can never do other than what was asked for. Arguments that change from
// step to step (ids, lengths, page tables) therefore lie in buffers of fixed place.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "gpu_worker/backend/cuda/device/device.h"

namespace tandem::gpu_worker::cuda {

class GraphSegments {
 public:
  explicit GraphSegments(Stream stream) : stream_(stream) {}

  // Opens a segment. `key` tells segments apart that will come again (slot, layer, rows).
  void Begin(uint64_t key);
  // Closes the open segment, if there is one, and gets its calls under way.
  void End();
  bool open() const { return open_; }

  // Makes a call now, or with the open segment. `signature`: a hash over everything that the call's
  // work depends on.
  void Call(uint64_t signature, std::function<void()> work);

  int64_t captured() const { return static_cast<int64_t>(graphs_.size()); }
  int64_t replayed() const { return replayed_; }

 private:
  struct Recorded {
    std::vector<uint64_t> signatures;
    ExecutableGraph graph;
  };

  const Stream stream_;
  bool open_ = false;
  uint64_t key_ = 0;
  std::vector<uint64_t> signatures_;
  std::vector<std::function<void()>> calls_;
  absl::flat_hash_map<uint64_t, Recorded> graphs_;
  int64_t replayed_ = 0;
};

}  // namespace tandem::gpu_worker::cuda
