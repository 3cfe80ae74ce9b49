// The processors and memory nodes this process may use, and where its threads should run. Weights
// are read at the speed of memory, and memory of another node is two to three times further away:
// so each thread stays near the bytes it reads. One thread a physical core: its second hardware
// thread shares the units that are busy, and brings nothing where memory is the limit.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/base/thread_pool.h"

namespace tandem::base {

struct MemoryNode {
  int system_node = 0;     // number as the operating system counts
  std::vector<int> cores;  // one processor of each physical core
  std::vector<int> cpus;   // all processors; those in `cores` first
};

struct Topology {
  std::vector<MemoryNode> nodes;  // those with processors this process may use, by number
  double cpu_quota = 0;           // processors' worth of time its control groups allow; 0: no limit

  int cores() const;
};

// This machine as this process may use it: its processor affinity, cpuset and CPU quota (control
// groups of either version) are honoured. INTERNAL when the system does not describe itself.
absl::StatusOr<Topology> DetectTopology();

// A machine described to hwloc, "numa:2 core:4 pu:2" for example, with the processors `allowed`
// (empty: all). For tests and for looking at a plan for hardware that is elsewhere.
// INVALID_ARGUMENT when hwloc does not understand it.
absl::StatusOr<Topology> SyntheticTopology(const std::string& description,
                                           const std::vector<int>& allowed = {});

// The smallest CPU quota of the control groups of this process, in processors; 0: none. `root`
// stands before /proc and /sys.
double CpuQuota(const std::string& root = "");

inline constexpr int kAllNodes = -1;

struct ThreadPlan {
  std::vector<ThreadPlace> compute;  // in order of node; the first is the calling thread
  // As many for work that must not get in the way of computing, so never on one processor each.
  std::vector<ThreadPlace> background;
  std::vector<int> memory_nodes;  // the system's number of each node; empty when there is one only
  bool pinned = false;            // each compute thread has a processor of its own
};

// Places for `threads` threads (0: one for each physical core, as far as the CPU quota goes) on all
// nodes or on `system_node` alone, each node its share. Threads are pinned to processors only where
// they fill the nodes' cores; fewer may share the machine with others, and the system then knows
// better which processors are free, so they are kept on their node only. INVALID_ARGUMENT when the
// node has no processor this process may use.
absl::StatusOr<ThreadPlan> PlanThreads(const Topology& topology, int threads,
                                       int system_node = kAllNodes);

}  // namespace tandem::base
