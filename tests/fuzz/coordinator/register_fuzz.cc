// A worker's registration: whatever the bytes, the registry refuses it or goes on with a sound
// table.
#include <cstddef>
#include <cstdint>

#include "coordinator/membership/registry.h"
#include "lib/base/check.h"
#include "lib/base/log.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem;
  base::InitLogging("fuzz", base::LogLevel::kError, false);
  membership::v1::RegisterRequest request;
  if (!request.ParseFromArray(data, static_cast<int>(size))) return 0;
  // The registry takes as many experts as any model has, which is too slow to do a million times.
  if (request.experts_per_layer() > 64 || request.moe_layers_size() > 16) return 0;
  coordinator::Registry registry({}, &base::RealClock());
  if (!registry.Register(request).ok()) return 0;
  const auto table = registry.placement();
  if (table == nullptr) return 0;
  TANDEM_CHECK_EQ(table->layers_size(), request.moe_layers_size());
  for (const auto& layer : table->layers()) {
    TANDEM_CHECK_EQ(layer.experts_size(), static_cast<int>(request.experts_per_layer()));
    for (const auto& replicas : layer.experts()) {
      for (const uint32_t w : replicas.workers())
        TANDEM_CHECK_LT(w, uint32_t(table->workers_size()));
    }
  }
  registry.Deregister(request.worker_id());
  return 0;
}
