// How many kernels the emulator has run, for tests that count what a step costs in launches.
#pragma once

#include <cstdint>

namespace tandem::gpu_worker::cuda::emulator {

// Since the program began, on all threads; those of replayed graphs as well.
int64_t KernelsRun();

}  // namespace tandem::gpu_worker::cuda::emulator
