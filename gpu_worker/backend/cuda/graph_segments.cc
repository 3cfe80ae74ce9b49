#include "gpu_worker/backend/cuda/graph_segments.h"

#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {

void GraphSegments::Begin(uint64_t key) {
  TANDEM_CHECK(!open_);
  open_ = true;
  key_ = key;
}

void GraphSegments::Call(uint64_t signature, std::function<void()> work) {
  if (!open_) {
    work();
    return;
  }
  signatures_.push_back(signature);
  calls_.push_back(std::move(work));
}

void GraphSegments::End() {
  if (!open_) return;
  open_ = false;
  const auto make_calls = [this] {
    for (const auto& call : calls_) call();
  };
  const auto found = graphs_.find(key_);
  if (calls_.empty()) {
    // Nothing to launch.
  } else if (found == graphs_.end()) {
    BeginCapture(stream_);
    make_calls();
    Recorded recorded{signatures_, EndCapture(stream_)};
    LaunchGraph(recorded.graph, stream_);
    graphs_.emplace(key_, std::move(recorded));
  } else if (found->second.signatures == signatures_) {
    LaunchGraph(found->second.graph, stream_);
    ++replayed_;
  } else {
    make_calls();
  }
  signatures_.clear();
  calls_.clear();
}

}  // namespace tandem::gpu_worker::cuda
