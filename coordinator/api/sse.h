// Server-sent events, as far as OpenAI's clients read them: one line of data per event. JSON never
// holds a raw line end, so nothing needs to be split.
#pragma once

#include <string>

namespace tandem::coordinator {

inline constexpr char kSseContentType[] = "text/event-stream; charset=utf-8";
// What readers skip; keeps proxies and clients from giving up while nothing is said.
inline constexpr char kSsePing[] = ": ping\n\n";
inline constexpr char kSseDone[] = "data: [DONE]\n\n";

inline std::string SseEvent(const std::string& json) { return "data: " + json + "\n\n"; }

}  // namespace tandem::coordinator
