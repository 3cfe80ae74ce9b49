#include "lib/model/text/added_tokens.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/model/text/utf8.h"

namespace tandem::text {
namespace {

// The longest known content has 40 bytes; the bound keeps the search linear on hostile files.
constexpr size_t kContentBytesMax = 1024;

// Where the white space that ends `text` begins.
size_t TrailingSpaceBegin(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
    if (!IsUnicodeSpace(ScanUtf8(text.substr(begin)).code_point)) break;
    end = begin;
  }
  return end;
}

size_t LeadingSpaceBytes(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = ScanUtf8(text.substr(at));
    if (!IsUnicodeSpace(step.code_point)) break;
    at += step.byte_count;
  }
  return at;
}

}  // namespace

absl::Status AddedTokens::Add(AddedToken token) {
  if (token.content.empty() || token.content.size() > kContentBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("added token ", token.id, " has ",
                                                   token.content.size(), " bytes, expected 1 to ",
                                                   kContentBytesMax));
  }
  const int32_t other = Find(token.content);
  if (other == token.id) return absl::OkStatus();
  if (other >= 0) {
    return absl::InvalidArgumentError(absl::StrCat("added token '", token.content, "' has the ids ",
                                                   other, " and ", token.id, ", expected one"));
  }
  Trie& trie = tries_[token.normalized ? 1 : 0];
  trie.starts[static_cast<uint8_t>(token.content[0])] = true;
  uint32_t node = 0;
  for (const char c : token.content) {
    const uint64_t key = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(c);
    const auto [it, fresh] = trie.child.emplace(key, static_cast<uint32_t>(trie.token_at.size()));
    if (fresh) trie.token_at.push_back(-1);
    node = it->second;
  }
  trie.token_at[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(std::move(token));
  return absl::OkStatus();
}

int32_t AddedTokens::Find(std::string_view content) const {
  for (const Trie& trie : tries_) {
    uint32_t node = 0;
    bool inside = !content.empty();
    for (size_t i = 0; inside && i < content.size(); ++i) {
      const auto it =
          trie.child.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(content[i]));
      inside = it != trie.child.end();
      if (inside) node = it->second;
    }
    if (inside && trie.token_at[node] >= 0)
      return tokens_[static_cast<size_t>(trie.token_at[node])].id;
  }
  return -1;
}

int32_t AddedTokens::LongestAt(const Trie& trie, std::string_view text) const {
  int32_t best = -1;
  uint32_t node = 0;
  for (const char c : text) {
    const auto it = trie.child.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(c));
    if (it == trie.child.end()) break;
    node = it->second;
    if (trie.token_at[node] >= 0) best = trie.token_at[node];
  }
  return best;
}

void AddedTokens::Cut(const Trie& trie, const Segment& segment, std::vector<Segment>* out) const {
  const std::string_view text = segment.text;
  size_t done = 0;  // everything before is in `out`
  for (size_t at = 0; at < text.size();) {
    const int32_t index =
        trie.starts[static_cast<uint8_t>(text[at])] ? LongestAt(trie, text.substr(at)) : -1;
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    size_t begin = at, end = at + token.content.size();
    if (token.lstrip) begin = done + TrailingSpaceBegin(text.substr(done, at - done));
    if (token.rstrip) end += LeadingSpaceBytes(text.substr(end));
    if (begin > done) out->push_back({text.substr(done, begin - done), -1});
    out->push_back({text.substr(begin, end - begin), token.id});
    done = at = end;
  }
  if (done < text.size()) out->push_back({text.substr(done), -1});
}

std::vector<Segment> AddedTokens::Split(std::string_view text) const {
  std::vector<Segment> now, next;
  if (!text.empty()) now.push_back({text, -1});
  for (const Trie& trie : tries_) {
    next.clear();
    for (const Segment& segment : now) {
      if (segment.id >= 0) {
        next.push_back(segment);
      } else {
        Cut(trie, segment, &next);
      }
    }
    now.swap(next);
  }
  return now;
}

}  // namespace tandem::text
