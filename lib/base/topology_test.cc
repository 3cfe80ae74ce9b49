#include "lib/base/topology.h"

#include <sched.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace tandem::base {
namespace {

constexpr char kTwoNodes[] = "numa:2 core:4 pu:2";

std::vector<std::vector<int>> CpusOf(const std::vector<ThreadPlace>& places) {
  std::vector<std::vector<int>> cpus;
  for (const ThreadPlace& place : places) cpus.push_back(place.cpus);
  return cpus;
}

std::vector<int> NodesOf(const std::vector<ThreadPlace>& places) {
  std::vector<int> nodes;
  for (const ThreadPlace& place : places) nodes.push_back(place.node);
  return nodes;
}

TEST(Topology, TwoNodesOfFourCoresOfTwoThreads) {
  const auto topology = SyntheticTopology(kTwoNodes);
  ASSERT_TRUE(topology.ok()) << topology.status();
  ASSERT_EQ(topology->nodes.size(), 2u);
  EXPECT_EQ(topology->cores(), 8);
  EXPECT_EQ(topology->nodes[0].system_node, 0);
  EXPECT_EQ(topology->nodes[0].cores, (std::vector<int>{0, 2, 4, 6}));
  EXPECT_EQ(topology->nodes[0].cpus, (std::vector<int>{0, 2, 4, 6, 1, 3, 5, 7}));
  EXPECT_EQ(topology->nodes[1].system_node, 1);
  EXPECT_EQ(topology->nodes[1].cores, (std::vector<int>{8, 10, 12, 14}));
}

TEST(Topology, OnlyAllowedProcessorsCount) {
  // The second thread of a core alone is a core; a node without any is left out.
  const auto topology = SyntheticTopology(kTwoNodes, {9, 10, 11, 14});
  ASSERT_TRUE(topology.ok()) << topology.status();
  ASSERT_EQ(topology->nodes.size(), 1u);
  EXPECT_EQ(topology->nodes[0].system_node, 1);
  EXPECT_EQ(topology->nodes[0].cores, (std::vector<int>{9, 10, 14}));
  EXPECT_EQ(topology->nodes[0].cpus, (std::vector<int>{9, 10, 14, 11}));
  EXPECT_FALSE(SyntheticTopology(kTwoNodes, {77}).ok());
}

TEST(Topology, RefusesWhatHwlocDoesNotUnderstand) {
  EXPECT_EQ(SyntheticTopology("two sockets").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Topology, DescribesThisMachineWithinItsAffinity) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  const auto narrow = DetectTopology();
  ASSERT_EQ(sched_setaffinity(0, sizeof(before), &before), 0);
  ASSERT_TRUE(narrow.ok()) << narrow.status();
  ASSERT_EQ(narrow->nodes.size(), 1u);
  EXPECT_EQ(narrow->nodes[0].cpus, std::vector<int>{first});

  const auto all = DetectTopology();
  ASSERT_TRUE(all.ok()) << all.status();
  size_t cpus = 0;
  for (const MemoryNode& node : all->nodes) cpus += node.cpus.size();
  EXPECT_LE(cpus, static_cast<size_t>(CPU_COUNT(&before)));
  EXPECT_GE(all->cores(), 1);
}

TEST(PlanThreads, AllCoresArePinnedOneThreadEach) {
  const auto plan = PlanThreads(*SyntheticTopology(kTwoNodes), 0);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->pinned);
  EXPECT_EQ(CpusOf(plan->compute),
            (std::vector<std::vector<int>>{{0}, {2}, {4}, {6}, {8}, {10}, {12}, {14}}));
  EXPECT_EQ(NodesOf(plan->compute), (std::vector<int>{0, 0, 0, 0, 1, 1, 1, 1}));
  EXPECT_EQ(plan->memory_nodes, (std::vector<int>{0, 1}));
  EXPECT_EQ(plan->background.size(), 8u);
  EXPECT_EQ(plan->background[5].cpus, (std::vector<int>{8, 10, 12, 14, 9, 11, 13, 15}));
  EXPECT_EQ(ThreadPool(plan->background).nodes(), 2) << "a plan is what the pool takes";
}

TEST(PlanThreads, FewerThanCoresStayOnTheirNodes) {
  const auto plan = PlanThreads(*SyntheticTopology(kTwoNodes), 3);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_FALSE(plan->pinned);
  EXPECT_EQ(NodesOf(plan->compute), (std::vector<int>{0, 0, 1}));
  EXPECT_EQ(plan->compute[2].cpus, (std::vector<int>{8, 10, 12, 14, 9, 11, 13, 15}));
}

TEST(PlanThreads, FewerThreadsThanNodesUseAsManyNodes) {
  const auto plan = PlanThreads(*SyntheticTopology(kTwoNodes), 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(NodesOf(plan->compute), std::vector<int>{0});
  EXPECT_EQ(plan->memory_nodes, std::vector<int>{0});
}

TEST(PlanThreads, OneNodeAlone) {
  const auto plan = PlanThreads(*SyntheticTopology(kTwoNodes), 0, 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->pinned);
  EXPECT_EQ(CpusOf(plan->compute), (std::vector<std::vector<int>>{{8}, {10}, {12}, {14}}));
  EXPECT_EQ(NodesOf(plan->compute), (std::vector<int>{0, 0, 0, 0})) << "counted from 0";
  EXPECT_EQ(plan->memory_nodes, std::vector<int>{1});
  const auto absent = PlanThreads(*SyntheticTopology(kTwoNodes), 0, 2);
  EXPECT_EQ(absent.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(absent.status().message().find("0, 1"), absl::string_view::npos) << absent.status();
}

TEST(PlanThreads, UnequalNodesGetUnequalShares) {
  const auto topology = SyntheticTopology(kTwoNodes, {0, 1, 2, 3, 4, 5, 8});
  const auto plan = PlanThreads(*topology, 8);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(NodesOf(plan->compute), (std::vector<int>{0, 0, 0, 0, 0, 0, 1, 1}));
  EXPECT_FALSE(plan->pinned) << "more threads than cores";
}

TEST(PlanThreads, TheQuotaLimitsHowManyAndThenNobodyIsPinned) {
  Topology topology = *SyntheticTopology("numa:1 core:8 pu:1");
  topology.cpu_quota = 2.5;
  const auto plan = PlanThreads(topology, 0);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->compute.size(), 2u);
  EXPECT_FALSE(plan->pinned);
  EXPECT_TRUE(plan->compute[0].cpus.empty()) << "one node: the system chooses freely";
  EXPECT_TRUE(plan->memory_nodes.empty());
  topology.cpu_quota = 0.5;
  EXPECT_EQ(PlanThreads(topology, 0)->compute.size(), 1u);
  EXPECT_EQ(PlanThreads(topology, 6)->compute.size(), 6u) << "what is asked for is given";
}

class CpuQuotaTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "tandem-quota-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  std::string root_;
};

TEST_F(CpuQuotaTest, SmallestOfAllGroupsAbove) {
  EXPECT_EQ(CpuQuota(root_), 0);
  Write("/proc/self/cgroup", "0::/pods/one/worker\n");
  EXPECT_EQ(CpuQuota(root_), 0);
  Write("/sys/fs/cgroup/pods/one/worker/cpu.max", "max 100000\n");
  EXPECT_EQ(CpuQuota(root_), 0);
  Write("/sys/fs/cgroup/pods/cpu.max", "350000 100000\n");
  EXPECT_EQ(CpuQuota(root_), 3.5);
  Write("/sys/fs/cgroup/pods/one/worker/cpu.max", "800000 100000\n");
  EXPECT_EQ(CpuQuota(root_), 3.5);
  Write("/sys/fs/cgroup/cpu.max", "200000 100000\n");
  EXPECT_EQ(CpuQuota(root_), 2);
}

TEST_F(CpuQuotaTest, VersionOne) {
  Write("/proc/self/cgroup", "7:memory:/box\n4:cpu,cpuacct:/box\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "-1\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(CpuQuota(root_), 0);
  Write("/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "150000\n");
  EXPECT_EQ(CpuQuota(root_), 1.5);
}

}  // namespace
}  // namespace tandem::base
