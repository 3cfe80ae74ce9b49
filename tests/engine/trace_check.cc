#include "tests/engine/trace_check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace tandem::gpu_worker {
namespace {

using Track = std::pair<int, int>;

Track TrackOf(const nlohmann::json& event) {
  return {event.at("pid").get<int>(), event.at("tid").get<int>()};
}

// Microseconds with three decimals, as nanoseconds.
int64_t Nanos(const nlohmann::json& micros) { return std::llround(micros.get<double>() * 1000); }

std::map<Track, std::string> TrackNames(const nlohmann::json& events) {
  std::map<Track, std::string> names;
  for (const auto& event : events) {
    if (event.at("name") == "thread_name") names[TrackOf(event)] = event.at("args").at("name");
  }
  return names;
}

struct Span {
  int64_t begin = 0, end = 0;
};

class Checker {
 public:
  void Check(const nlohmann::json& events) {
    tracks_ = TrackNames(events);
    for (const auto& event : events) {
      const std::string phase = event.at("ph");
      if (phase == "M") {
        if (event.at("name") == "process_name") groups_.insert(event.at("pid").get<int>());
        continue;
      }
      EXPECT_FALSE(event.at("name").get<std::string>().empty());
      CheckPlaceAndTime(event);
      if (phase == "X") {
        AddSpan(event);
      } else {
        EXPECT_TRUE(phase == "s" || phase == "t" || phase == "f") << event;
        arrows_[event.at("id").get<int>()].push_back(event);
      }
    }
    for (const auto& [id, parts] : arrows_) CheckArrow(parts);
  }

 private:
  void CheckPlaceAndTime(const nlohmann::json& event) {
    EXPECT_TRUE(tracks_.contains(TrackOf(event))) << event;
    EXPECT_TRUE(groups_.contains(TrackOf(event).first)) << event;
    const int64_t at = Nanos(event.at("ts"));
    EXPECT_GE(at, last_) << event;
    last_ = at;
  }

  void AddSpan(const nlohmann::json& event) {
    const int64_t begin = Nanos(event.at("ts")), duration = Nanos(event.at("dur"));
    EXPECT_GE(duration, 0) << event;
    std::vector<Span>& open = open_[TrackOf(event)];
    while (!open.empty() && open.back().end <= begin) open.pop_back();
    if (!open.empty()) {
      EXPECT_LE(begin + duration, open.back().end) << event;
    }
    open.push_back({begin, begin + duration});
    spans_[TrackOf(event)].push_back(open.back());
  }

  void CheckArrow(const std::vector<nlohmann::json>& parts) {
    ASSERT_EQ(parts.size(), 3u);
    const char* phases[] = {"s", "t", "f"};
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(parts[i].at("ph"), phases[i]);
      EXPECT_EQ(parts[i].value("bp", ""), i == 0 ? "" : "e");
      const int64_t at = Nanos(parts[i].at("ts"));
      bool within = false;
      for (const Span& span : spans_[TrackOf(parts[i])]) {
        within |= span.begin <= at && at <= span.end;
      }
      EXPECT_TRUE(within) << parts[i];
    }
  }

  std::map<Track, std::string> tracks_;
  std::set<int> groups_;
  int64_t last_ = 0;
  std::map<Track, std::vector<Span>> open_, spans_;
  std::map<int, std::vector<nlohmann::json>> arrows_;
};

}  // namespace

nlohmann::json CheckTrace(const std::string& text) {
  const nlohmann::json events = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  EXPECT_TRUE(events.is_array()) << text.substr(0, 200);
  if (events.is_array()) Checker().Check(events);
  return events;
}

std::vector<nlohmann::json> SpansOf(const nlohmann::json& events, const std::string& track,
                                    const std::string& name) {
  const std::map<Track, std::string> names = TrackNames(events);
  std::vector<nlohmann::json> spans;
  for (const auto& event : events) {
    if (event.at("ph") != "X" || !names.at(TrackOf(event)).starts_with(track)) continue;
    if (name.empty() || event.at("name") == name) spans.push_back(event);
  }
  return spans;
}

}  // namespace tandem::gpu_worker
