#include "lib/base/topology.h"

#include <hwloc.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <type_traits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"

namespace tandem::base {
namespace {

struct DestroyTopology {
  void operator()(hwloc_topology* topology) const { hwloc_topology_destroy(topology); }
};
using TopologyPtr = std::unique_ptr<hwloc_topology, DestroyTopology>;

struct FreeBitmap {
  void operator()(hwloc_bitmap_s* bitmap) const { hwloc_bitmap_free(bitmap); }
};
using BitmapPtr = std::unique_ptr<hwloc_bitmap_s, FreeBitmap>;

TopologyPtr NewTopology() {
  hwloc_topology_t topology = nullptr;
  TANDEM_CHECK_EQ(hwloc_topology_init(&topology), 0);
  return TopologyPtr(topology);
}

// The processors of `set` in ascending order.
std::vector<int> CpusOf(hwloc_const_bitmap_t set) {
  std::vector<int> cpus;
  for (int cpu = hwloc_bitmap_first(set); cpu >= 0; cpu = hwloc_bitmap_next(set, cpu)) {
    cpus.push_back(cpu);
  }
  return cpus;
}

// The node's processors in `allowed`, one of each core before the others. They leave `allowed`: of
// two nodes near the same processors (fast memory beside ordinary) the first has them.
MemoryNode DescribeNode(hwloc_topology_t topology, hwloc_obj_t node, hwloc_bitmap_t allowed) {
  MemoryNode out;
  out.system_node = static_cast<int>(node->os_index);
  const BitmapPtr local(hwloc_bitmap_alloc());
  hwloc_bitmap_and(local.get(), node->cpuset, allowed);
  hwloc_bitmap_andnot(allowed, allowed, local.get());
  std::vector<int> second_threads;
  const BitmapPtr of_core(hwloc_bitmap_alloc());
  const BitmapPtr seen(hwloc_bitmap_alloc());
  hwloc_obj_t core = nullptr;
  while ((core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)) != nullptr) {
    hwloc_bitmap_and(of_core.get(), core->cpuset, local.get());
    hwloc_bitmap_or(seen.get(), seen.get(), of_core.get());
    const std::vector<int> cpus = CpusOf(of_core.get());
    if (cpus.empty()) continue;
    out.cores.push_back(cpus.front());
    second_threads.insert(second_threads.end(), cpus.begin() + 1, cpus.end());
  }
  // Some virtual machines do not say which processors share a core: each counts as one.
  hwloc_bitmap_andnot(local.get(), local.get(), seen.get());
  for (int cpu : CpusOf(local.get())) out.cores.push_back(cpu);
  out.cpus = out.cores;
  out.cpus.insert(out.cpus.end(), second_threads.begin(), second_threads.end());
  return out;
}

absl::StatusOr<Topology> Describe(hwloc_topology_t topology, hwloc_bitmap_t allowed) {
  hwloc_bitmap_and(allowed, allowed, hwloc_topology_get_allowed_cpuset(topology));
  Topology out;
  hwloc_obj_t node = nullptr;
  while ((node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node)) != nullptr) {
    MemoryNode described = DescribeNode(topology, node, allowed);
    if (!described.cpus.empty()) out.nodes.push_back(std::move(described));
  }
  if (out.nodes.empty()) {
    return absl::InternalError("expected a memory node with processors, hwloc found none");
  }
  return out;
}

// One number of a control group's file, or a pair "quota period" of version 2. Negative or "max"
// means no quota: 0.
double QuotaOfFiles(const std::filesystem::path& group) {
  std::ifstream v2(group / "cpu.max");
  std::string quota;
  double period_us = 0;
  if (v2 >> quota >> period_us) {
    const double quota_us = quota == "max" ? 0 : std::strtod(quota.c_str(), nullptr);
    return period_us > 0 ? std::max(0.0, quota_us / period_us) : 0;
  }
  std::ifstream v1_quota(group / "cpu.cfs_quota_us"), v1_period(group / "cpu.cfs_period_us");
  double quota_us = 0;
  if (v1_quota >> quota_us && v1_period >> period_us && period_us > 0) {
    return std::max(0.0, quota_us / period_us);
  }
  return 0;
}

}  // namespace

int Topology::cores() const {
  size_t cores = 0;
  for (const MemoryNode& node : nodes) cores += node.cores.size();
  return static_cast<int>(cores);
}

absl::StatusOr<Topology> DetectTopology() {
  const TopologyPtr topology = NewTopology();
  if (hwloc_topology_load(topology.get()) != 0) {
    return absl::InternalError(
        absl::StrCat("hwloc cannot describe this machine: ", std::strerror(errno)));
  }
  const BitmapPtr allowed(hwloc_bitmap_alloc_full());
  // What the system will not tell is not a limit.
  if (hwloc_get_cpubind(topology.get(), allowed.get(), HWLOC_CPUBIND_PROCESS) != 0) {
    hwloc_bitmap_fill(allowed.get());
  }
  TANDEM_ASSIGN_OR_RETURN(Topology out, Describe(topology.get(), allowed.get()));
  out.cpu_quota = CpuQuota();
  return out;
}

absl::StatusOr<Topology> SyntheticTopology(const std::string& description,
                                           const std::vector<int>& allowed) {
  const TopologyPtr topology = NewTopology();
  if (hwloc_topology_set_synthetic(topology.get(), description.c_str()) != 0 ||
      hwloc_topology_load(topology.get()) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("hwloc does not understand the machine \"", description, "\""));
  }
  const BitmapPtr set(allowed.empty() ? hwloc_bitmap_alloc_full() : hwloc_bitmap_alloc());
  for (int cpu : allowed) hwloc_bitmap_set(set.get(), static_cast<unsigned>(cpu));
  return Describe(topology.get(), set.get());
}

double CpuQuota(const std::string& root) {
  std::ifstream groups(root + "/proc/self/cgroup");
  std::string line;
  double smallest = 0;
  while (std::getline(groups, line)) {
    // "0::/path" of version 2, "4:cpu,cpuacct:/path" of version 1.
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    const bool version2 = fields[1].empty();
    const std::vector<std::string> controllers = absl::StrSplit(fields[1], ',');
    if (!version2 &&
        std::find(controllers.begin(), controllers.end(), "cpu") == controllers.end()) {
      continue;
    }
    const std::filesystem::path mount =
        root + (version2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + fields[1]);
    std::filesystem::path below = std::filesystem::path(fields[2]).relative_path();
    for (;;) {  // the quota of every group above counts too
      const double quota = QuotaOfFiles(mount / below);
      if (quota > 0 && (smallest == 0 || quota < smallest)) smallest = quota;
      if (below.empty()) break;
      below = below.parent_path();
    }
  }
  return smallest;
}

namespace {

// Threads of each node: its share of `threads` by its cores, at least one, as many in all.
std::vector<int> ShareOut(const std::vector<const MemoryNode*>& nodes, int threads) {
  std::vector<int> shares(nodes.size(), 1);
  for (int given = static_cast<int>(nodes.size()); given < threads; ++given) {
    const auto fullness = [&](size_t n) {
      return static_cast<double>(shares[n]) / static_cast<double>(nodes[n]->cores.size());
    };
    size_t emptiest = 0;
    for (size_t n = 1; n < nodes.size(); ++n) {
      if (fullness(n) < fullness(emptiest)) emptiest = n;
    }
    ++shares[emptiest];
  }
  return shares;
}

absl::StatusOr<std::vector<const MemoryNode*>> ChooseNodes(const Topology& topology,
                                                           int system_node) {
  std::vector<const MemoryNode*> chosen;
  std::vector<int> numbers;
  for (const MemoryNode& node : topology.nodes) {
    numbers.push_back(node.system_node);
    if (system_node == kAllNodes || node.system_node == system_node) chosen.push_back(&node);
  }
  if (!chosen.empty()) return chosen;
  return absl::InvalidArgumentError(
      absl::StrCat("expected a NUMA node with processors this process may use (",
                   absl::StrJoin(numbers, ", "), "), found ", system_node));
}

}  // namespace

absl::StatusOr<ThreadPlan> PlanThreads(const Topology& topology, int threads, int system_node) {
  TANDEM_CHECK_GE(threads, 0);
  TANDEM_ASSIGN_OR_RETURN(std::vector<const MemoryNode*> nodes, ChooseNodes(topology, system_node));
  if (threads == 0) {
    for (const MemoryNode* node : nodes) threads += static_cast<int>(node->cores.size());
    if (topology.cpu_quota > 0) {
      threads = std::clamp(static_cast<int>(std::floor(topology.cpu_quota)), 1, threads);
    }
  }
  // A node without a thread would be read from afar only.
  if (threads < static_cast<int>(nodes.size())) nodes.resize(threads);
  const std::vector<int> shares = ShareOut(nodes, threads);
  ThreadPlan plan;
  plan.pinned = true;
  for (size_t n = 0; n < nodes.size(); ++n) {
    plan.pinned = plan.pinned && shares[n] == static_cast<int>(nodes[n]->cores.size());
  }
  const bool one_node = topology.nodes.size() == 1;
  for (size_t n = 0; n < nodes.size(); ++n) {
    const ThreadPlace on_node = {.cpus = one_node ? std::vector<int>() : nodes[n]->cpus,
                                 .node = static_cast<int>(n)};
    for (int t = 0; t < shares[n]; ++t) {
      plan.background.push_back(on_node);
      plan.compute.push_back(on_node);
      if (plan.pinned) plan.compute.back().cpus = {nodes[n]->cores[t]};
    }
    if (!one_node) plan.memory_nodes.push_back(nodes[n]->system_node);
  }
  return plan;
}

}  // namespace tandem::base
