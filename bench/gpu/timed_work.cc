#include "bench/gpu/timed_work.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "lib/base/check.h"

namespace tandem::bench {
namespace {

// Microseconds of one launch, ascending, one value a replay.
std::vector<double> ReplayTimes(const GpuWork& work, cuda::Stream stream, int copies, int launches,
                                int replays) {
  cuda::BeginCapture(stream);
  for (int i = 0; i < launches; ++i) work.launch(i % copies);
  const cuda::ExecutableGraph graph = cuda::EndCapture(stream);
  const cuda::OwnedEvent start = cuda::NewEvent(), stop = cuda::NewEvent();
  std::vector<double> times;
  for (int i = -1; i < replays; ++i) {  // the first loads the graph and is not counted
    cuda::Record(start.get(), stream);
    cuda::LaunchGraph(graph, stream);
    cuda::Record(stop.get(), stream);
    cuda::Synchronize(stream);
    const double ms = cuda::MillisecondsBetween(start.get(), stop.get());
    if (i >= 0) times.push_back(ms * 1e3 / launches);
  }
  std::sort(times.begin(), times.end());
  return times;
}

}  // namespace

Timing TimeWork(const GpuWork& work, cuda::Stream stream, const TimingOptions& options) {
  TANDEM_CHECK(work.copies > 0 && options.replays > 0);
  for (int copy = 0; copy < work.copies; ++copy) work.launch(copy);
  cuda::Synchronize(stream);
  Timing timing;
  timing.replays = options.replays;
  // Whole rounds of the buffers, so that each is as cold as the others.
  timing.launches = (options.launches_min + work.copies - 1) / work.copies * work.copies;
  const auto cold = ReplayTimes(work, stream, work.copies, timing.launches, options.replays);
  const auto warm = ReplayTimes(work, stream, 1, timing.launches, options.replays);
  timing.us_median = cold[cold.size() / 2];
  timing.us_best = cold.front();
  timing.us_warm_median = warm[warm.size() / 2];
  return timing;
}

double RelativeDistance(const std::vector<float>& a, const std::vector<float>& b) {
  TANDEM_CHECK_EQ(a.size(), b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return std::numeric_limits<double>::infinity();
    const double d = static_cast<double>(a[i]) - b[i];
    difference += d * d;
    norm += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace tandem::bench
