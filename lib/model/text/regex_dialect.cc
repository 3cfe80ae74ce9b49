#include "lib/model/text/regex_dialect.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"

namespace tandem::text {
namespace {

constexpr char kSpaceRanges[] =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
    "\\x{205f}\\x{3000}";
// The gaps between the ranges above, for \S inside a class. Surrogates are no characters in UTF
// mode.
constexpr char kNonSpaceRanges[] =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{"
    "d7ff}"
    "\\x{e000}-\\x{10ffff}";

constexpr std::array<std::string_view, 30> kCategories = {
    "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe",
    "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"};

bool IsCategory(std::string_view name) {
  if (name.size() == 1) return std::string_view("LMNPSZC").find(name[0]) != std::string_view::npos;
  return std::find(kCategories.begin(), kCategories.end(), name) != kCategories.end();
}

struct ClassItems {
  std::string text;                     // PCRE2 items, without brackets
  std::vector<std::string> categories;  // the \p{..} among them
  bool only_categories = true;
};

class Translator {
 public:
  Translator(std::string_view in, RegexDialect dialect) : in_(in), dialect_(dialect) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < in_.size()) TANDEM_RETURN_IF_ERROR(One());
    return std::move(out_);
  }

 private:
  absl::Status Refuse(std::string_view what) const {
    return absl::UnimplementedError(absl::StrCat("regular expression uses ", std::string(what),
                                                 " at byte ", at_, ", which is not supported"));
  }
  bool Looking(std::string_view s) const { return in_.substr(at_, s.size()) == s; }

  absl::Status One() {
    const char c = in_[at_];
    if (c == '\\') return Escape();
    if (c == '[') return Class();
    if (c == '(') return Group();
    if (c == '}') return BraceEnd();
    ++at_;
    if (c == '$') {
      out_ += dialect_ == RegexDialect::kOniguruma ? "(?m:$)" : "\\z";
    } else if (c == '^') {
      out_ += dialect_ == RegexDialect::kOniguruma ? "(?m:^)" : "\\A";
    } else {
      out_ += c;
    }
    return absl::OkStatus();
  }

  // {n,m}+ is possessive in PCRE2 but a second, greedy repeat in Ruby syntax.
  absl::Status BraceEnd() {
    out_ += in_[at_++];
    if (Looking("+")) return Refuse("a possessive interval");
    return absl::OkStatus();
  }

  absl::Status Group() {
    if (Looking("(*")) return Refuse("'(*'");
    if (Looking("(?")) {
      bool known = false;
      for (std::string_view head : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:"}) {
        known = known || Looking(head);
      }
      if (!known) return Refuse("the group '" + std::string(in_.substr(at_, 4)) + "'");
      out_ += "(?";
      at_ += 2;
      // The characters up to the body (":", "<!", "i:") mean the same; copy the first so that "<="
      // is not re-read.
      out_ += in_[at_++];
      return absl::OkStatus();
    }
    out_ += in_[at_++];
    return absl::OkStatus();
  }

  // \p{Name}, \P{Name}, \p{^Name}; at_ points at the p. Appends to `items` the PCRE2 spelling.
  absl::Status Property(ClassItems* items) {
    const bool upper = in_[at_] == 'P';
    if (at_ + 1 >= in_.size() || in_[at_ + 1] != '{') return Refuse("\\p without braces");
    const size_t close = in_.find('}', at_);
    if (close == std::string_view::npos) return Refuse("an unclosed \\p{");
    std::string_view name = in_.substr(at_ + 2, close - at_ - 2);
    const bool caret = !name.empty() && name[0] == '^';
    if (caret) name.remove_prefix(1);
    const bool negated = upper != caret;
    if (!IsCategory(name) && name != "Han") return Refuse("\\p{" + std::string(name) + "}");
    absl::StrAppend(&items->text, negated ? "\\P{" : "\\p{",
                    name == "Han" ? "sc:Han" : std::string(name), "}");
    if (negated || name == "Han") {
      items->only_categories = false;
    } else {
      items->categories.emplace_back(name);
    }
    at_ = close + 1;
    return absl::OkStatus();
  }

  // \uHHHH (Oniguruma only), \xHH and \x{H..}; at_ points at the letter.
  absl::Status HexEscape(ClassItems* items) {
    const bool four = in_[at_] == 'u';
    ++at_;
    std::string digits;
    if (!four && Looking("{")) {
      const size_t close = in_.find('}', at_);
      if (close == std::string_view::npos) return Refuse("an unclosed \\x{");
      digits = std::string(in_.substr(at_ + 1, close - at_ - 1));
      at_ = close + 1;
    } else {
      digits = std::string(in_.substr(at_, four ? 4 : 2));
      at_ += digits.size();
    }
    const bool hex = std::all_of(digits.begin(), digits.end(),
                                 [](unsigned char c) { return std::isxdigit(c) != 0; });
    if (!hex || digits.empty() || digits.size() > 6)
      return Refuse("a malformed hexadecimal escape");
    absl::StrAppend(&items->text, "\\x{", digits, "}");
    return absl::OkStatus();
  }

  // An escape that means the same inside and outside a class; at_ points behind the backslash.
  absl::Status SharedEscape(ClassItems* items) {
    const unsigned char c = static_cast<unsigned char>(in_[at_]);
    if (c == 'p' || c == 'P') return Property(items);
    items->only_categories = false;
    if (c == 'x' || (c == 'u' && dialect_ == RegexDialect::kOniguruma)) return HexEscape(items);
    const bool letter =
        std::string_view("rntdD").find(static_cast<char>(c)) != std::string_view::npos;
    const bool punctuation = c < 0x80 && std::ispunct(c) != 0;
    if (!letter && !punctuation) return Refuse(std::string("the escape \\") + static_cast<char>(c));
    items->text += '\\';
    items->text += static_cast<char>(c);
    ++at_;
    return absl::OkStatus();
  }

  absl::Status Escape() {
    if (++at_ >= in_.size()) return Refuse("a backslash at the end");
    if (in_[at_] == 's' || in_[at_] == 'S') {
      absl::StrAppend(&out_, in_[at_] == 's' ? "[" : "[^", kSpaceRanges, "]");
      ++at_;
      return absl::OkStatus();
    }
    if (Looking("z") || Looking("A")) {
      absl::StrAppend(&out_, "\\", std::string(1, in_[at_++]));
      return absl::OkStatus();
    }
    ClassItems items;
    TANDEM_RETURN_IF_ERROR(SharedEscape(&items));
    out_ += items.text;
    return absl::OkStatus();
  }

  // Items up to "]" or "&&", which stay unread.
  absl::Status Items(ClassItems* items) {
    while (true) {
      if (at_ >= in_.size()) return Refuse("an unclosed '['");
      if (Looking("]") || Looking("&&")) return absl::OkStatus();
      if (Looking("[")) return Refuse("a nested class");
      if (in_[at_] != '\\') {
        items->only_categories = false;
        items->text += in_[at_++];
        continue;
      }
      if (++at_ >= in_.size()) return Refuse("a backslash at the end");
      if (in_[at_] == 's' || in_[at_] == 'S') {
        items->only_categories = false;
        items->text += in_[at_] == 's' ? kSpaceRanges : kNonSpaceRanges;
        ++at_;
        continue;
      }
      TANDEM_RETURN_IF_ERROR(SharedEscape(items));
    }
  }

  absl::Status Class() {
    ++at_;
    const bool negated = Looking("^");
    if (negated) ++at_;
    ClassItems items;
    TANDEM_RETURN_IF_ERROR(Items(&items));
    if (Looking("&&")) return Intersection(negated, items);
    if (items.text.empty()) return Refuse("an empty class");
    absl::StrAppend(&out_, negated ? "[^" : "[", items.text, "]");
    ++at_;
    return absl::OkStatus();
  }

  absl::Status Intersection(bool negated, const ClassItems& left) {
    at_ += 2;
    if (negated || !left.only_categories || !Looking("[^"))
      return Refuse("a class intersection of this form");
    at_ += 2;
    ClassItems right;
    TANDEM_RETURN_IF_ERROR(Items(&right));
    if (!Looking("]]") || right.text.empty()) return Refuse("a class intersection of this form");
    at_ += 2;
    out_ += "[^";
    for (std::string_view category : kCategories) {
      const bool kept = std::any_of(
          left.categories.begin(), left.categories.end(),
          [&](const auto& c) { return c == category || (c.size() == 1 && c[0] == category[0]); });
      // Surrogates cannot occur in UTF mode.
      if (!kept && category != "Cs") absl::StrAppend(&out_, "\\p{", std::string(category), "}");
    }
    absl::StrAppend(&out_, right.text, "]");
    return absl::OkStatus();
  }

  std::string_view in_;
  RegexDialect dialect_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

absl::StatusOr<std::string> ToPcre2(std::string_view pattern, RegexDialect dialect) {
  // DeepSeek-V2's trailing-space split, tried at each space of a long run, is quadratic; its
  // leftmost match always starts where the run starts, so looking only there finds the same.
  if (pattern == "\\s+$" && dialect == RegexDialect::kOniguruma) {
    return absl::StrCat("(?<![", kSpaceRanges, "])[", kSpaceRanges, "]++(?m:$)");
  }
  return Translator(pattern, dialect).Run();
}

}  // namespace tandem::text
