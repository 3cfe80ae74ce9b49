// Was the machine quiet while something was measured: time the processors spent on other programs,
// and time the machine's owner took away.
#pragma once

#include "absl/time/time.h"

namespace tandem::bench {

struct LoadSample {
  double wall_s = 0;
  double own_cpu_s = 0;  // processor time of this process
  double other_cpu_s = 0;
  double stolen_s = 0;  // of a virtual machine; 0 on bare metal
};

// Processor time of all threads of this process. Time given to other programs is not in it, so it
// says something on a machine that is not quiet; waiting awake for another thread is.
double ProcessCpuSeconds();

// Counters of /proc/stat and of this process since the object was made. The kernel counts in ticks
// of 10 ms, so stretches under half a second say little.
class LoadMeter {
 public:
  LoadMeter();
  LoadSample Read() const;

 private:
  LoadSample start_;
};

}  // namespace tandem::bench
