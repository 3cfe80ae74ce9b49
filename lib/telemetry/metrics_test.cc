#include "lib/telemetry/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace tandem::telemetry {
namespace {

using testing::HasSubstr;

double ValueOf(const std::string& text, const std::string& series) {
  const size_t at = text.find("\n" + series + " ");
  if (at == std::string::npos) return -1;
  return std::strtod(text.c_str() + at + 1 + series.size(), nullptr);
}

TEST(MetricsTest, SameNameAndLabelsIsTheSameObject) {
  Metrics metrics;
  auto& a = metrics.Counter("tandem_x_total", "X.", {{"kind", "a"}});
  EXPECT_EQ(&a, &metrics.Counter("tandem_x_total", "X.", {{"kind", "a"}}));
  EXPECT_NE(&a, &metrics.Counter("tandem_x_total", "X.", {{"kind", "b"}}));
}

TEST(MetricsTest, TextHasCountersGaugesAndHistograms) {
  Metrics metrics;
  metrics.Counter("tandem_x_total", "Counts x.", {{"kind", "a"}}).Increment(3);
  metrics.Gauge("tandem_y_bytes", "Y.").Set(2.5);
  metrics.Histogram("tandem_z_seconds", "Z.", {0.1, 1}).Observe(0.5);
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("# HELP tandem_x_total Counts x."));
  EXPECT_THAT(text, HasSubstr("# TYPE tandem_x_total counter"));
  EXPECT_EQ(ValueOf(text, "tandem_x_total{kind=\"a\"}"), 3);
  EXPECT_EQ(ValueOf(text, "tandem_y_bytes"), 2.5);
  EXPECT_EQ(ValueOf(text, "tandem_z_seconds_bucket{le=\"0.1\"}"), 0);
  EXPECT_EQ(ValueOf(text, "tandem_z_seconds_bucket{le=\"1\"}"), 1);
  EXPECT_EQ(ValueOf(text, "tandem_z_seconds_count"), 1);
}

TEST(MetricsTest, ProcessGaugesAreThereAndPlausible) {
  Metrics metrics;
  const std::string text = "\n" + metrics.Text();
  EXPECT_GT(ValueOf(text, "process_resident_memory_bytes"), 1 << 20);
  EXPECT_GE(ValueOf(text, "process_cpu_seconds_total"), 0);
  EXPECT_GE(ValueOf(text, "process_open_fds"), 3);
  EXPECT_GT(ValueOf(text, "process_max_fds"), ValueOf(text, "process_open_fds"));
  EXPECT_EQ(ValueOf(text, "process_threads"), 1);
  EXPECT_GT(ValueOf(text, "process_start_time_seconds"), 1.7e9);
}

TEST(MetricsTest, ThreadsMayDeclareAndCountAtOnce) {
  Metrics metrics;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&metrics] {
      for (int i = 0; i < 500; ++i) {
        metrics.Counter("tandem_w_total", "W.", {{"i", std::to_string(i % 7)}}).Increment();
        if (i % 100 == 0) metrics.Text();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  double sum = 0;
  for (int i = 0; i < 7; ++i) {
    sum += metrics.Counter("tandem_w_total", "W.", {{"i", std::to_string(i)}}).Value();
  }
  EXPECT_EQ(sum, 2000);
}

TEST(MetricsDeathTest, OneNameWithTwoTypesIsABug) {
  Metrics metrics;
  metrics.Counter("tandem_x_total", "X.");
  EXPECT_DEATH(metrics.Gauge("tandem_x_total", "X."), "tandem_x_total");
}

}  // namespace
}  // namespace tandem::telemetry
