#include "gpu_worker/engine/trace_file.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace tandem::gpu_worker {
namespace {

// "Processes" of the viewer are groups of tracks.
constexpr int kHostGroup = 1, kDeviceGroup = 2, kWorkerGroup = 3;

struct Place {
  int group = 0;
  int track = 0;
};

// Of a slot within its group; kNoSlot comes first.
int TrackOf(int slot) { return slot - kNoSlot + 1; }

// Names go into JSON as they are: literals of ours, or addresses, which hold no character that
// would need more than this.
std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) >= 0x20) out += c;
  }
  return out + '"';
}

class Events {
 public:
  explicit Events(int64_t base_ns) : base_ns_(base_ns) {}

  void Name(const char* what, Place place, const std::string& name) {
    names_.push_back(
        absl::StrFormat(R"({"ph":"M","name":"%s","pid":%d,"tid":%d,"ts":0,"args":{"name":%s}})",
                        what, place.group, place.track, Quoted(name)));
  }

  // `args`: members of an object, or empty.
  void Span(Place place, const std::string& name, int64_t begin_ns, int64_t end_ns,
            const std::string& args) {
    // Equal times sort the outer span first, as viewers want them.
    Add(begin_ns, begin_ns - end_ns,
        absl::StrFormat(R"({"ph":"X","name":%s,"pid":%d,"tid":%d,"ts":%s,"dur":%s,"args":{%s}})",
                        Quoted(name), place.group, place.track, Micros(begin_ns - base_ns_),
                        Micros(std::max<int64_t>(0, end_ns - begin_ns)), args));
  }

  // One arrow's beginning ("s"), a place it passes ("t") or its end ("f").
  void Flow(char phase, int64_t id, Place place, int64_t at_ns) {
    Add(at_ns, 0,
        absl::StrFormat(
            R"({"ph":"%c","name":"expert call","cat":"experts","id":%d,"pid":%d,"tid":%d,"ts":%s%s})",
            phase, id, place.group, place.track, Micros(at_ns - base_ns_),
            phase == 's' ? "" : R"(,"bp":"e")"));
  }

  std::string Json() {
    std::stable_sort(timed_.begin(), timed_.end(), [](const Timed& a, const Timed& b) {
      return std::pair(a.at_ns, a.order) < std::pair(b.at_ns, b.order);
    });
    std::vector<std::string> lines = std::move(names_);
    for (Timed& event : timed_) lines.push_back(std::move(event.json));
    return absl::StrCat("[\n", absl::StrJoin(lines, ",\n"), "\n]\n");
  }

 private:
  struct Timed {
    int64_t at_ns = 0;
    int64_t order = 0;
    std::string json;
  };

  // Microseconds are the format's unit; a fraction keeps the nanoseconds.
  static std::string Micros(int64_t ns) {
    const int64_t whole = std::abs(ns);
    return absl::StrFormat("%s%d.%03d", ns < 0 ? "-" : "", whole / 1000, whole % 1000);
  }

  void Add(int64_t at_ns, int64_t order, std::string json) {
    timed_.push_back({at_ns, order, std::move(json)});
  }

  const int64_t base_ns_;
  std::vector<std::string> names_;
  std::vector<Timed> timed_;
};

// Tracks of things that may overlap, as the calls of both halves do that are with one worker: a
// name has as many tracks as it had spans at one time.
class Lanes {
 public:
  Lanes(int group, Events& events) : group_(group), events_(events) {}

  // Spans come in the order of their begins.
  Place For(const std::string& name, int64_t begin_ns, int64_t end_ns) {
    std::vector<Lane>& lanes = lanes_[name];
    for (Lane& lane : lanes) {
      if (lane.busy_until_ns > begin_ns) continue;
      lane.busy_until_ns = end_ns;
      return {group_, lane.track};
    }
    lanes.push_back({++tracks_, end_ns});
    const Place place{group_, tracks_};
    events_.Name("thread_name", place,
                 lanes.size() == 1 ? name : absl::StrCat(name, " (", lanes.size(), ")"));
    return place;
  }

 private:
  struct Lane {
    int track = 0;
    int64_t busy_until_ns = 0;
  };
  const int group_;
  Events& events_;
  std::map<std::string, std::vector<Lane>> lanes_;
  int tracks_ = 0;
};

const char* HalfName(int slot) { return slot == 0 ? "half A" : "half B"; }

template <typename Span>
std::vector<Span> InOrder(std::vector<Span> spans) {
  std::stable_sort(spans.begin(), spans.end(),
                   [](const Span& a, const Span& b) { return a.begin_ns < b.begin_ns; });
  return spans;
}

std::string LayerArgs(int64_t layer) {
  return layer < 0 ? "" : absl::StrFormat(R"("layer":%d)", layer);
}

void AddTracks(Events& events) {
  const std::pair<int, const char*> groups[] = {
      {kHostGroup, "engine"}, {kDeviceGroup, "device"}, {kWorkerGroup, "expert workers"}};
  for (const auto& [group, name] : groups) events.Name("process_name", {group, 0}, name);
  events.Name("thread_name", {kHostGroup, TrackOf(kNoSlot)}, "steps");
  for (int slot = 0; slot < kStepSlots; ++slot) {
    events.Name("thread_name", {kHostGroup, TrackOf(slot)}, HalfName(slot));
  }
}

// When the engine's thread did `name` for a layer of a half; null when it did not.
const HostSpan* Find(const TracedStep& step, const std::string& name, int slot, int64_t layer) {
  for (const HostSpan& span : step.host) {
    if (span.layer == layer && span.slot == slot && name == span.name) return &span;
  }
  return nullptr;
}

// A call, with an arrow from where it was dispatched, through the call, to where it was combined.
void AddFrame(const TracedStep& step, const FrameSpan& frame, Place place, int64_t id,
              Events& events) {
  events.Span(place, absl::StrCat("layer ", frame.layer), frame.begin_ns, frame.end_ns,
              absl::StrFormat(R"("layer":%d,"half":"%s","rows":%d,"terms":%d,"queue_us":%d,)"
                              R"("compute_us":%d.%03d,"answered":%s)",
                              frame.layer, HalfName(frame.slot), frame.rows, frame.terms,
                              frame.queue_us, frame.compute_ns / 1000, frame.compute_ns % 1000,
                              frame.answered ? "true" : "false"));
  const Place host{kHostGroup, TrackOf(frame.slot)};
  const HostSpan* from = Find(step, "dispatch", frame.slot, frame.layer);
  const HostSpan* to = Find(step, "combine", frame.slot, frame.layer);
  // A frame that was tried again after the dispatch has no arrow into its begin.
  if (from == nullptr || to == nullptr || !frame.answered || frame.begin_ns > from->end_ns) return;
  events.Flow('s', id, host, from->begin_ns);
  events.Flow('t', id, place, frame.begin_ns);
  events.Flow('f', id, host, to->begin_ns);
}

}  // namespace

std::string TraceJson(std::span<const std::shared_ptr<const TracedStep>> steps) {
  Events events(steps.empty() ? 0 : steps.front()->begin_ns);
  AddTracks(events);
  Lanes device(kDeviceGroup, events), workers(kWorkerGroup, events);
  int64_t flows = 0;
  for (const auto& step : steps) {
    events.Span({kHostGroup, TrackOf(kNoSlot)}, absl::StrCat("step ", step->step_id),
                step->begin_ns, step->end_ns,
                absl::StrFormat(R"("rows":%d,"halves":%d)", step->rows, step->halves));
    for (const HostSpan& span : step->host) {
      events.Span({kHostGroup, TrackOf(span.slot)}, span.name, span.begin_ns, span.end_ns,
                  LayerArgs(span.layer));
    }
    for (const DeviceSpan& span : InOrder(step->device)) {
      events.Span(device.For(HalfName(span.slot), span.begin_ns, span.end_ns), span.name,
                  span.begin_ns, span.end_ns, LayerArgs(span.layer));
    }
    for (const FrameSpan& frame : InOrder(step->frames)) {
      AddFrame(*step, frame, workers.For(frame.worker, frame.begin_ns, frame.end_ns), ++flows,
               events);
    }
  }
  return events.Json();
}

}  // namespace tandem::gpu_worker
