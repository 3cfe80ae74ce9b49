#include "lib/model/text/jinja_lexer.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/model/text/utf8.h"

namespace tandem::text {
namespace {

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsNameStart(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNamePart(char c) { return IsNameStart(c) || IsDigit(c); }

std::string Normalized(std::string_view source) {
  std::string text = absl::StrReplaceAll(base::ToAbsl(source), {{"\r\n", "\n"}, {"\r", "\n"}});
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// Values of the escapes Python's string literals share with C.
int SimpleEscape(char c) {
  switch (c) {
    case 'n':
      return '\n';
    case 't':
      return '\t';
    case 'r':
      return '\r';
    case 'a':
      return '\a';
    case 'b':
      return '\b';
    case 'f':
      return '\f';
    case 'v':
      return '\v';
    case '\\':
    case '\'':
    case '"':
      return c;
    default:
      return -1;
  }
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : src_(Normalized(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < src_.size()) {
      const size_t tag = NextTag();
      if (tag == std::string::npos) {
        Emit(TokenKind::kData, src_.substr(at_));
        break;
      }
      TANDEM_RETURN_IF_ERROR(Tag(tag));
    }
    Emit(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  absl::Status Fail(std::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrCat("chat template line ", line_, ": ", base::ToAbsl(what)));
  }
  void Emit(TokenKind kind, std::string text) {
    if (kind != TokenKind::kData || !text.empty())
      tokens_.push_back({kind, std::move(text), line_});
  }
  bool Looking(std::string_view s) const {
    return std::string_view(src_).substr(at_, s.size()) == s;
  }
  void Advance(size_t to) {
    line_ += static_cast<int>(std::count(src_.begin() + static_cast<ptrdiff_t>(at_),
                                         src_.begin() + static_cast<ptrdiff_t>(to), '\n'));
    at_ = to;
  }
  void SkipSpace() {
    size_t to = at_;
    while (to < src_.size() && IsSpace(src_[to])) ++to;
    Advance(to);
  }

  size_t NextTag() const {
    for (size_t at = src_.find('{', at_); at != std::string::npos && at + 1 < src_.size();
         at = src_.find('{', at + 1)) {
      if (src_[at + 1] == '{' || src_[at + 1] == '%' || src_[at + 1] == '#') return at;
    }
    return std::string::npos;
  }

  // The data before a tag, cut as the tag's sign and kind ask.
  std::string DataBefore(size_t tag, char sign, bool variable) const {
    std::string data = src_.substr(at_, tag - at_);
    if (sign == '-') {
      while (!data.empty() && IsSpace(data.back())) data.pop_back();
      return data;
    }
    if (sign == '+' || variable) return data;
    const size_t newline = data.rfind('\n');
    const size_t line_begin = newline == std::string::npos ? 0 : newline + 1;
    if (line_begin == 0 && !line_starting_) return data;
    if (std::all_of(data.begin() + static_cast<ptrdiff_t>(line_begin), data.end(), IsSpace))
      data.resize(line_begin);
    return data;
  }

  // Steps over what follows a tag's closing bracket, which ends at `end`.
  void CloseTag(size_t end, char sign, bool trims_newline) {
    Advance(end);
    if (sign == '-') {
      SkipSpace();
    } else if (sign != '+' && trims_newline && Looking("\n")) {
      Advance(at_ + 1);
    }
    line_starting_ = at_ > 0 && src_[at_ - 1] == '\n';
  }

  absl::Status Tag(size_t tag) {
    const char kind = src_[tag + 1];
    const char after = tag + 2 < src_.size() ? src_[tag + 2] : '\0';
    const char sign = after == '-' || after == '+' ? after : '\0';
    Emit(TokenKind::kData, DataBefore(tag, sign, kind == '{'));
    Advance(tag + 2 + (sign != '\0' ? 1 : 0));
    if (kind == '#') return Comment();
    if (kind == '%' && IsRaw()) return Raw();
    Emit(kind == '{' ? TokenKind::kVariableBegin : TokenKind::kBlockBegin, "");
    return Inside(kind == '{');
  }

  absl::Status Comment() {
    const size_t end = src_.find("#}", at_);
    if (end == std::string::npos) return Fail("missing end of comment tag");
    const char sign = end > at_ ? src_[end - 1] : '\0';
    CloseTag(end + 2, sign, true);
    return absl::OkStatus();
  }

  // The position behind "name" and the tag's end, if the text at `at` is `name`; 0 otherwise.
  size_t KeywordTagEnd(size_t at, std::string_view name, char* sign) const {
    while (at < src_.size() && IsSpace(src_[at])) ++at;
    if (std::string_view(src_).substr(at, name.size()) != name) return 0;
    at += name.size();
    while (at < src_.size() && IsSpace(src_[at])) ++at;
    *sign = at < src_.size() && (src_[at] == '-' || src_[at] == '+') ? src_[at] : '\0';
    if (*sign != '\0') ++at;
    return std::string_view(src_).substr(at, 2) == "%}" ? at + 2 : 0;
  }

  bool IsRaw() const {
    char sign = '\0';
    return KeywordTagEnd(at_, "raw", &sign) != 0;
  }

  absl::Status Raw() {
    char sign = '\0';
    const size_t open_end = KeywordTagEnd(at_, "raw", &sign);
    CloseTag(open_end, sign, false);
    for (size_t tag = src_.find("{%", at_); tag != std::string::npos;
         tag = src_.find("{%", tag + 1)) {
      const char after = tag + 2 < src_.size() ? src_[tag + 2] : '\0';
      const char open_sign = after == '-' || after == '+' ? after : '\0';
      const size_t end = KeywordTagEnd(tag + 2 + (open_sign != '\0' ? 1 : 0), "endraw", &sign);
      if (end == 0) continue;
      Emit(TokenKind::kData, DataBefore(tag, open_sign, false));
      CloseTag(end, sign, true);
      return absl::OkStatus();
    }
    return Fail("missing end of raw directive");
  }

  // Tokens up to the tag's end. Inside brackets "}}" and "%}" do not end it.
  absl::Status Inside(bool variable) {
    const std::string_view close = variable ? "}}" : "%}";
    int depth = 0;
    while (true) {
      SkipSpace();
      if (at_ >= src_.size()) return Fail("unexpected end of template inside a tag");
      if (depth == 0) {
        const char sign = src_[at_] == '-' || (src_[at_] == '+' && !variable) ? src_[at_] : '\0';
        const size_t skip = sign != '\0' ? 1 : 0;
        if (std::string_view(src_).substr(at_ + skip, 2) == close) {
          Emit(variable ? TokenKind::kVariableEnd : TokenKind::kBlockEnd, "");
          CloseTag(at_ + skip + 2, sign, !variable);
          return absl::OkStatus();
        }
      }
      TANDEM_RETURN_IF_ERROR(OneToken(&depth));
    }
  }

  absl::Status OneToken(int* depth) {
    const char c = src_[at_];
    if (c == '"' || c == '\'') return String(c);
    if (IsDigit(c)) return Number();
    if (IsNameStart(c)) {
      size_t to = at_;
      while (to < src_.size() && IsNamePart(src_[to])) ++to;
      Emit(TokenKind::kName, src_.substr(at_, to - at_));
      at_ = to;
      return absl::OkStatus();
    }
    return Operator(depth);
  }

  absl::Status Operator(int* depth) {
    static constexpr std::array<std::string_view, 6> kTwo = {"//", "**", "==", "!=", ">=", "<="};
    for (std::string_view op : kTwo) {
      if (!Looking(op)) continue;
      Emit(TokenKind::kOperator, std::string(op));
      at_ += 2;
      return absl::OkStatus();
    }
    const char c = src_[at_];
    if (std::string_view("+-*/%~[](){}<>=.:|,").find(c) == std::string_view::npos) {
      return Fail(absl::StrCat("unexpected character ", std::string(1, c)));
    }
    if (c == '(' || c == '[' || c == '{') ++*depth;
    if ((c == ')' || c == ']' || c == '}') && --*depth < 0)
      return Fail(absl::StrCat("unexpected ", std::string(1, c)));
    Emit(TokenKind::kOperator, std::string(1, c));
    ++at_;
    return absl::OkStatus();
  }

  // Decimal digits and single underscores between them.
  void Digits(std::string* out) {
    while (at_ < src_.size() && (IsDigit(src_[at_]) || (src_[at_] == '_' && at_ + 1 < src_.size() &&
                                                        IsDigit(src_[at_ + 1])))) {
      if (src_[at_] != '_') *out += src_[at_];
      ++at_;
    }
  }

  absl::Status Number() {
    std::string text;
    bool is_float = false;
    Digits(&text);
    if (at_ + 1 < src_.size() && src_[at_] == '.' && IsDigit(src_[at_ + 1])) {
      is_float = true;
      text += src_[at_++];
      Digits(&text);
    }
    if (at_ < src_.size() && (src_[at_] == 'e' || src_[at_] == 'E')) {
      size_t digit = at_ + 1;
      if (digit < src_.size() && (src_[digit] == '+' || src_[digit] == '-')) ++digit;
      if (digit < src_.size() && IsDigit(src_[digit])) {
        is_float = true;
        text += src_.substr(at_, digit - at_);
        at_ = digit;
        Digits(&text);
      }
    }
    if (at_ < src_.size() && IsNameStart(src_[at_]))
      return Fail("malformed number (only decimal ones are supported)");
    Emit(is_float ? TokenKind::kFloat : TokenKind::kInteger, text);
    return absl::OkStatus();
  }

  absl::Status String(char quote) {
    std::string text;
    size_t at = at_ + 1;
    while (true) {
      if (at >= src_.size()) return Fail("string without end");
      if (src_[at] == quote) break;
      if (src_[at] != '\\') {
        text += src_[at++];
        continue;
      }
      TANDEM_RETURN_IF_ERROR(StringEscape(&at, &text));
    }
    Emit(TokenKind::kString, text);
    Advance(at + 1);
    return absl::OkStatus();
  }

  absl::Status StringEscape(size_t* at, std::string* text) {
    const char c = *at + 1 < src_.size() ? src_[*at + 1] : '\0';
    *at += 2;
    if (SimpleEscape(c) >= 0) {
      *text += static_cast<char>(SimpleEscape(c));
    } else if (c == 'x' || c == 'u' || c == 'U') {
      return HexEscape(c == 'x' ? 2 : c == 'u' ? 4 : 8, at, text);
    } else if (c >= '0' && c <= '7') {
      return Fail("octal escapes in strings are not supported");
    } else if (c != '\n') {  // a backslash before a newline continues the line; before anything
                             // else it stays
      *text += '\\';
      if (c != '\0') *text += c;
    }
    return absl::OkStatus();
  }

  absl::Status HexEscape(size_t digits, size_t* at, std::string* text) {
    uint32_t code = 0;
    for (size_t i = 0; i < digits; ++i, ++*at) {
      if (*at >= src_.size() || std::isxdigit(static_cast<unsigned char>(src_[*at])) == 0)
        return Fail("malformed \\x, \\u or \\U escape");
      const char c = src_[*at];
      code = code * 16 + static_cast<uint32_t>(IsDigit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
      if (code > 0x10FFFF) return Fail("escape beyond U+10FFFF");
    }
    if (code >= 0xD800 && code < 0xE000) return Fail("escape of a surrogate");
    AppendUtf8(code, text);
    return absl::OkStatus();
  }

  std::string src_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> LexTemplate(std::string_view source) {
  return Lexer(source).Run();
}

}  // namespace tandem::text
