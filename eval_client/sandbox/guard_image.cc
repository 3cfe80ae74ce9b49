#include "eval_client/sandbox/guard_image.h"

// TANDEM_GUARD_FILE: path of the library, from CMakeLists.txt.
__asm__(
    ".section .rodata\n"
    ".balign 16\n"
    "tandem_guard_begin:\n"
    ".incbin \"" TANDEM_GUARD_FILE
    "\"\n"
    "tandem_guard_end:\n"
    ".text\n");

extern "C" {
extern const char tandem_guard_begin[] __attribute__((visibility("hidden")));
extern const char tandem_guard_end[] __attribute__((visibility("hidden")));
}

namespace tandem::eval {

std::string_view GuardImage() {
  return {tandem_guard_begin, static_cast<size_t>(tandem_guard_end - tandem_guard_begin)};
}

}  // namespace tandem::eval
