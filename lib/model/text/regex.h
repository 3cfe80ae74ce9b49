// A thin owner of one compiled PCRE2 pattern (JIT when the machine has it), used for the
// pre-tokenizer's splits. Why not std::regex or RE2: the patterns need \p{..} classes and
// look-ahead, and must not recurse on long input.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::text {

// A split cannot use a pattern that matches the empty string; a search can.
enum class EmptyMatch { kRefuse, kAllow };

class Regex {
 public:
  // `pattern` is in PCRE2 syntax (see regex_dialect.h). InvalidArgument when it does not compile or
  // can match the empty string and `empty` refuses that.
  static absl::StatusOr<Regex> Compile(std::string_view pattern,
                                       EmptyMatch empty = EmptyMatch::kRefuse);

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // Appends [begin, end) byte offsets of the leftmost non-overlapping matches. `subject` must be
  // well-formed UTF-8: it is not checked again (re-checking per match would be quadratic).
  // Thread-safe. ResourceExhausted when the subject needs more than the backtracking stack or step
  // limit allows.
  absl::Status FindAll(std::string_view subject,
                       std::vector<std::pair<size_t, size_t>>* matches) const;

  // Whether the pattern matches anywhere in `subject`; errors and conditions as FindAll, but an
  // empty match counts.
  absl::StatusOr<bool> Contains(std::string_view subject) const;

 private:
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

}  // namespace tandem::text
