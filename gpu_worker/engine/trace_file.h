// Trace files: traced steps as JSON that ui.perfetto.dev and chrome://tracing open (the array form
// of the Trace Event Format). docs/trace.md says what is on which track.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "gpu_worker/engine/step_trace.h"

namespace tandem::gpu_worker {

// An array of events in the order of their times, which count from the first step's begin. Spans of
// one track never overlap unless one lies within the other: calls to a worker that overlap are put
// on further tracks of its name.
std::string TraceJson(std::span<const std::shared_ptr<const TracedStep>> steps);

}  // namespace tandem::gpu_worker
