#include "eval_client/table/result_page.h"

// TANDEM_RESULT_PAGE_FILE: path of the template, from CMakeLists.txt.
__asm__(
    ".section .rodata\n"
    "tandem_result_page_begin:\n"
    ".incbin \"" TANDEM_RESULT_PAGE_FILE
    "\"\n"
    "tandem_result_page_end:\n"
    ".text\n");

extern "C" {
extern const char tandem_result_page_begin[] __attribute__((visibility("hidden")));
extern const char tandem_result_page_end[] __attribute__((visibility("hidden")));
}

namespace tandem::eval {

std::string_view ResultPageTemplate() {
  return {tandem_result_page_begin,
          static_cast<size_t>(tandem_result_page_end - tandem_result_page_begin)};
}

}  // namespace tandem::eval
