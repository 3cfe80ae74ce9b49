#include "lib/model/text/pre_tokenizer.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/model/text/shadow_text.h"

namespace tandem::text {
namespace {

using Span = std::pair<size_t, size_t>;  // [begin, end) bytes

// CJK ideographs, U+0800 to U+4E00 and Hangul, as DeepSeek's older tokenizers group them.
constexpr char kCjkAndHangul[] = "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+";

// The cased letters of deepseek-llm's word split, as ranges.
constexpr char kCasedLetters[] =
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}"
    "\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-"
    "\\x{38a}"
    "\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}"
    "\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{"
    "1cbf}"
    "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{"
    "1f1d}"
    "\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}"
    "\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}"
    "\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{"
    "1ff4}"
    "\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}"
    "\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}"
    "\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}"
    "\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{"
    "fb17}"
    "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}"
    "\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}"
    "\\x{1e900}-\\x{1e943}";

struct NamedSplits {
  RegexDialect dialect;
  std::vector<std::string> patterns;
};

NamedSplits DeepseekV3() {
  return {RegexDialect::kOniguruma,
          {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
           "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
           "|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
           "| ?[\\p{P}\\p{S}]+[\\r\\n]*"
           "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
}

NamedSplits DeepseekLlm() {
  return {
      RegexDialect::kOniguruma,
      {"[\\r\\n]", std::string("\\s?[") + kCasedLetters + "]+",
       "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
       "\\s+$", kCjkAndHangul, "\\p{N}"}};
}

NamedSplits DeepseekCoder() {
  return {RegexDialect::kOniguruma,
          {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", kCjkAndHangul, "\\p{N}"}};
}

// One pattern: Han runs alone, words split at a change from lower to upper case (with an English
// contraction attached), numbers by three, punctuation, white space.
NamedSplits KimiK2() {
  const std::string lead = "[^\\r\\n\\p{L}\\p{N}]?";
  const std::string upper = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]";
  const std::string lower = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]";
  const std::string contraction = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
  return {RegexDialect::kRust,
          {"[\\p{Han}]+|" + lead + upper + "*" + lower + "+" + contraction + "|" + lead + upper +
           "+" + lower + "*" + contraction +
           "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
}

// Cuts `piece` of `text` by `regex`; matches and the stretches between them both become pieces.
absl::Status Cut(const Regex& regex, std::string_view text, Span piece, std::vector<Span>* matches,
                 std::vector<Span>* out) {
  matches->clear();
  const std::string_view subject = text.substr(piece.first, piece.second - piece.first);
  TANDEM_RETURN_IF_ERROR(regex.FindAll(subject, matches));
  size_t at = piece.first;
  for (const auto& [begin, end] : *matches) {
    if (piece.first + begin > at) out->emplace_back(at, piece.first + begin);
    out->emplace_back(piece.first + begin, piece.first + end);
    at = piece.first + end;
  }
  if (at < piece.second) out->emplace_back(at, piece.second);
  return absl::OkStatus();
}

}  // namespace

absl::Status PreTokenizer::AddSplit(std::string_view pattern, RegexDialect dialect) {
  // The longest pattern known (DeepSeek-V2's letters) has 1.2 KB.
  constexpr size_t kPatternBytesMax = 16 << 10;
  if (pattern.size() > kPatternBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("regular expression has ", pattern.size(),
                                                   " bytes, expected at most ", kPatternBytesMax));
  }
  TANDEM_ASSIGN_OR_RETURN(const std::string translated, ToPcre2(pattern, dialect));
  TANDEM_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(translated));
  splits_.push_back(std::move(regex));
  return absl::OkStatus();
}

absl::StatusOr<PreTokenizer> PreTokenizer::Named(std::string_view name) {
  NamedSplits named;
  if (name == "deepseek-v3") {
    named = DeepseekV3();
  } else if (name == "deepseek-llm") {
    named = DeepseekLlm();
  } else if (name == "deepseek-coder") {
    named = DeepseekCoder();
  } else if (name == "kimi-k2") {
    named = KimiK2();
  } else {
    return absl::UnimplementedError(absl::StrCat(
        "pre-tokenizer '", std::string(name),
        "' is not supported, expected deepseek-v3, deepseek-llm, deepseek-coder or kimi-k2"));
  }
  PreTokenizer made;
  for (const std::string& pattern : named.patterns) {
    TANDEM_RETURN_IF_ERROR(made.AddSplit(pattern, named.dialect));
  }
  return made;
}

absl::Status PreTokenizer::Split(std::string_view text,
                                 std::vector<std::string_view>* pieces) const {
  if (text.empty()) return absl::OkStatus();
  std::string storage;
  const std::string_view shadow = ShadowText(text, &storage);
  std::vector<Span> now = {{0, text.size()}}, next, matches;
  for (const Regex& regex : splits_) {
    next.clear();
    for (const Span& piece : now)
      TANDEM_RETURN_IF_ERROR(Cut(regex, shadow, piece, &matches, &next));
    now.swap(next);
  }
  pieces->reserve(pieces->size() + now.size());
  for (const auto& [begin, end] : now) pieces->push_back(text.substr(begin, end - begin));
  return absl::OkStatus();
}

}  // namespace tandem::text
