// Launching in the emulator: kernels run at once, on the calling thread, or are recorded while
// their stream is being captured.
#pragma once

#include <functional>

#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/cuda/emulator/emulator.h"

namespace tandem::gpu_worker::cuda::emulator {

void LaunchKernel(const LaunchShape& shape, Stream stream, std::function<void()> kernel);

}  // namespace tandem::gpu_worker::cuda::emulator
