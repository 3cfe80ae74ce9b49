#define PCRE2_CODE_UNIT_WIDTH 8
#include "lib/model/text/regex.h"

#include <pcre2.h>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"

namespace tandem::text {
namespace {

// A backtracking frame costs 16 to 32 bytes per character of a group repeat: 256 MiB covers an 8
// MiB run. The address range is reserved, pages are touched only as needed.
constexpr size_t kJitStackStartBytes = 64 << 10;
constexpr size_t kJitStackMaxBytes = 256 << 20;
// PCRE2's own default (10 million) is a fraction of a second; stated here because it bounds hostile
// patterns.
constexpr uint32_t kMatchStepsMax = 10'000'000;

struct MatchState {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = nullptr;

  MatchState() {
    TANDEM_CHECK(data != nullptr && context != nullptr);
    pcre2_set_match_limit(context, kMatchStepsMax);
  }
  ~MatchState() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
  // The machine stack (32 KiB of it) serves almost every text; the big one is made on first need.
  bool GrowStack() {
    if (stack != nullptr) return false;
    stack = pcre2_jit_stack_create(kJitStackStartBytes, kJitStackMaxBytes, nullptr);
    if (stack == nullptr) return false;
    pcre2_jit_stack_assign(context, nullptr, stack);
    return true;
  }
};

MatchState& ThreadMatchState() {
  thread_local MatchState state;
  return state;
}

std::string ErrorText(int code) {
  PCRE2_UCHAR buffer[160];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct Regex::Code {
  pcre2_code* compiled = nullptr;
  ~Code() { pcre2_code_free(compiled); }
};

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern, EmptyMatch empty) {
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  TANDEM_CHECK(context != nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE error_at = 0;
  auto code = std::make_unique<Code>();
  code->compiled =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &error_at, context);
  pcre2_compile_context_free(context);
  if (code->compiled == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("regular expression does not compile at byte ",
                                                   error_at, ": ", ErrorText(error)));
  }
  uint32_t may_be_empty = 0;
  pcre2_pattern_info(code->compiled, PCRE2_INFO_MATCHEMPTY, &may_be_empty);
  if (may_be_empty != 0 && empty == EmptyMatch::kRefuse) {
    return absl::InvalidArgumentError(
        "regular expression can match the empty string, expected one that cannot");
  }
  // Without JIT (a platform PCRE2 does not support) matching is interpreted: the same matches,
  // slower.
  pcre2_jit_compile(code->compiled, PCRE2_JIT_COMPLETE);
  return Regex(std::move(code));
}

absl::Status Regex::FindAll(std::string_view subject,
                            std::vector<std::pair<size_t, size_t>>* matches) const {
  MatchState& state = ThreadMatchState();
  const PCRE2_SIZE* ovector = pcre2_get_ovector_pointer(state.data);
  size_t at = 0;
  while (at < subject.size()) {
    const int rc = pcre2_match(code_->compiled, reinterpret_cast<PCRE2_SPTR>(subject.data()),
                               subject.size(), at, PCRE2_NO_UTF_CHECK, state.data, state.context);
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && state.GrowStack()) continue;
    if (rc < 0) {
      return absl::ResourceExhaustedError(absl::StrCat("splitting a text of ", subject.size(),
                                                       " bytes stopped at byte ", at, ": ",
                                                       ErrorText(rc)));
    }
    // \K could move the start before `at`, or make the match empty: never loop on such a pattern.
    if (ovector[0] < at || ovector[1] <= ovector[0]) {
      return absl::InvalidArgumentError("regular expression made an empty or backward match");
    }
    matches->emplace_back(ovector[0], ovector[1]);
    at = ovector[1];
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Regex::Contains(std::string_view subject) const {
  MatchState& state = ThreadMatchState();
  int rc = 0;
  do {
    rc = pcre2_match(code_->compiled, reinterpret_cast<PCRE2_SPTR>(subject.data()), subject.size(),
                     0, PCRE2_NO_UTF_CHECK, state.data, state.context);
  } while (rc == PCRE2_ERROR_JIT_STACKLIMIT && state.GrowStack());
  if (rc == PCRE2_ERROR_NOMATCH) return false;
  if (rc >= 0) return true;
  return absl::ResourceExhaustedError(
      absl::StrCat("searching a text of ", subject.size(), " bytes stopped: ", ErrorText(rc)));
}

}  // namespace tandem::text
