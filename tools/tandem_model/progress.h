// Progress of a long pass over bytes: a bar that redraws itself on a terminal, a line every five
// seconds elsewhere.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "lib/base/clock.h"

namespace tandem {

class Progress {
 public:
  // `what` begins each line ("writing x.gguf"). Writes to stderr.
  Progress(std::string what, const base::Clock& clock);
  // Ends the bar's line.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Redraws when it is time to; cheap enough to call for every chunk.
  void Update(int64_t bytes_done, int64_t bytes_total);

 private:
  const std::string what_;
  const base::Clock& clock_;
  const bool on_terminal_;
  const absl::Duration start_;
  absl::Duration next_;
  bool drawn_ = false;
};

}  // namespace tandem
