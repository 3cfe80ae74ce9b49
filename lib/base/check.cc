#include "lib/base/check.h"

#include <cstdio>
#include <cstdlib>

namespace tandem::base {

void CheckFailed(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, what.c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace tandem::base
