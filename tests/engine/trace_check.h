// Trace check: whether a text is a trace that viewers can show, found out without one.
#pragma once

#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace tandem::gpu_worker {

// The events of an array of trace events; EXPECTs that
//   every event is a span with a time and a length, a name, or part of an arrow;
//   times never go back; every track and its group has a name;
//   spans of a track lie within each other or apart;
//   every arrow has one beginning, then one passage, then one end, each within a span.
nlohmann::json CheckTrace(const std::string& text);

// The spans named `name`, or of any name when empty, on tracks whose name begins with `track`.
std::vector<nlohmann::json> SpansOf(const nlohmann::json& events, const std::string& track,
                                    const std::string& name = "");

}  // namespace tandem::gpu_worker
