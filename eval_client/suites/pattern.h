// A regular expression as Python's re understands it (for str), compiled by PCRE2: the published
// answer parsers are written in such.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::eval {

class Pattern {
 public:
  // CHECKs that `pattern` compiles: patterns are ours, never input. `\s` means the same as in
  // Python except for U+001C to U+001F.
  explicit Pattern(const std::string& pattern, bool ignore_case = false);
  ~Pattern();
  Pattern(Pattern&&) noexcept;

  // re.findall(pattern, text): of each match its first group that is not empty, or all of it when
  // the pattern has no groups. Thread-safe. A search that takes too long finds nothing more.
  std::vector<std::string> FindAll(std::string_view text) const;
  // The first of FindAll.
  std::optional<std::string> Search(std::string_view text) const;

 private:
  struct Code;
  std::vector<std::string> Find(std::string_view text, size_t matches_max) const;
  std::unique_ptr<Code> code_;
};

}  // namespace tandem::eval
