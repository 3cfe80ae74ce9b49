#include "eval_client/suites/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdint>

#include "lib/base/check.h"

namespace tandem::eval {
namespace {

// A model may have written bytes that are no UTF-8; they match nothing.
constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF;

struct FreeMatch {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

// The first group that took part and is not empty; without groups the whole match.
std::string Chosen(std::string_view text, const PCRE2_SIZE* offsets, int pairs, uint32_t groups) {
  if (groups == 0) return std::string(text.substr(offsets[0], offsets[1] - offsets[0]));
  for (int i = 1; i < pairs; ++i) {
    const PCRE2_SIZE begin = offsets[2 * i];
    const PCRE2_SIZE end = offsets[2 * i + 1];
    if (begin != PCRE2_UNSET && end > begin) return std::string(text.substr(begin, end - begin));
  }
  return "";
}

}  // namespace

struct Pattern::Code {
  pcre2_code* code = nullptr;
  uint32_t groups = 0;
  ~Code() { pcre2_code_free(code); }
};

Pattern::Pattern(const std::string& pattern, bool ignore_case) : code_(std::make_unique<Code>()) {
  int error = 0;
  PCRE2_SIZE at = 0;
  code_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                              kOptions | (ignore_case ? PCRE2_CASELESS : 0), &error, &at, nullptr);
  TANDEM_CHECK(code_->code != nullptr);
  pcre2_pattern_info(code_->code, PCRE2_INFO_CAPTURECOUNT, &code_->groups);
}

Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;

std::vector<std::string> Pattern::Find(std::string_view text, size_t matches_max) const {
  const std::unique_ptr<pcre2_match_data, FreeMatch> data(
      pcre2_match_data_create_from_pattern(code_->code, nullptr));
  std::vector<std::string> found;
  size_t at = 0;
  while (found.size() < matches_max && at <= text.size()) {
    const int pairs = pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(text.data()),
                                  text.size(), at, 0, data.get(), nullptr);
    if (pairs <= 0) break;
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data.get());
    found.push_back(Chosen(text, offsets, pairs, code_->groups));
    at = offsets[1] > offsets[0] ? offsets[1] : offsets[1] + 1;
  }
  return found;
}

std::vector<std::string> Pattern::FindAll(std::string_view text) const {
  return Find(text, SIZE_MAX);
}

std::optional<std::string> Pattern::Search(std::string_view text) const {
  std::vector<std::string> found = Find(text, 1);
  if (found.empty()) return std::nullopt;
  return std::move(found[0]);
}

}  // namespace tandem::eval
