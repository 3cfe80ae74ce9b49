#include "lib/model/text/bpe.h"

#include <algorithm>
#include <limits>
#include <queue>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "lib/base/check.h"
#include "lib/base/text.h"

namespace tandem::text {
namespace {

constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
// Up to here a linear scan for the lowest rank beats a heap (words have 2 to 12 bytes).
constexpr size_t kShortSymbols = 48;

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// C0, C1 and F5..FF never occur in UTF-8 (Unicode 15, table 3-7), so a vocabulary may lack them.
bool OccursInUtf8(int byte) { return byte < 0xC0 || (byte > 0xC1 && byte < 0xF5); }

}  // namespace

absl::StatusOr<Bpe> Bpe::Make(const std::vector<std::string>& pieces,
                              const std::vector<bool>& usable, const std::vector<MergeRule>& merges,
                              bool whole_first) {
  TANDEM_CHECK_EQ(pieces.size(), usable.size());
  Bpe bpe;
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (usable[id]) bpe.id_of_piece_.emplace(base::ToAbsl(pieces[id]), static_cast<int32_t>(id));
  }
  bpe.FillBytes();
  for (int byte = 0; byte < 256; ++byte) {
    if (OccursInUtf8(byte) && bpe.id_of_byte_[byte] < 0) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "vocabulary has no token for byte 0x%02X, expected all bytes of UTF-8", byte));
    }
  }
  bpe.merges_.reserve(merges.size());
  for (const MergeRule& m : merges) bpe.merges_[PairKey(m.left, m.right)] = {m.rank, m.result};
  bpe.shortcut_.assign(pieces.size(), whole_first);
  if (!whole_first) bpe.FindShortcuts(pieces);
  return bpe;
}

void Bpe::FillBytes() {
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    id_of_byte_[byte] = Find(std::string_view(&c, 1));
  }
}

// Most pieces of a text are tokens whose own bytes merge to exactly that token: found once here,
// they need one hash look-up.
void Bpe::FindShortcuts(const std::vector<std::string>& pieces) {
  std::vector<int32_t> ids;
  for (const auto& [piece, id] : id_of_piece_) {
    // Longer tokens are rare in text; leaving them out bounds the work on hostile files.
    constexpr size_t kTokenBytesMax = 256;
    if (piece.size() > kTokenBytesMax) continue;
    ids.clear();
    Merge(pieces[static_cast<size_t>(id)], &ids);
    shortcut_[static_cast<size_t>(id)] = ids.size() == 1 && ids[0] == id;
  }
}

int32_t Bpe::Find(std::string_view piece) const {
  const auto it = id_of_piece_.find(base::ToAbsl(piece));
  return it == id_of_piece_.end() ? -1 : it->second;
}

const Bpe::Merged* Bpe::Lookup(int32_t left, int32_t right) const {
  const auto it = merges_.find(PairKey(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

void Bpe::Encode(std::string_view piece, std::vector<int32_t>* ids) const {
  const int32_t whole = Find(piece);
  if (whole >= 0 && shortcut_[static_cast<size_t>(whole)]) {
    ids->push_back(whole);
    return;
  }
  Merge(piece, ids);
}

void Bpe::Merge(std::string_view piece, std::vector<int32_t>* ids) const {
  std::vector<int32_t> symbols;
  symbols.reserve(piece.size());
  for (const char c : piece) {
    const int32_t id = id_of_byte_[static_cast<uint8_t>(c)];
    // A vocabulary's own token may hold a byte outside UTF-8 (FindShortcuts); text never does.
    if (id >= 0) symbols.push_back(id);
  }
  if (symbols.size() <= kShortSymbols) {
    MergeShort(&symbols);
  } else {
    MergeLong(&symbols);
  }
  ids->insert(ids->end(), symbols.begin(), symbols.end());
}

void Bpe::MergeShort(std::vector<int32_t>* symbols) const {
  std::vector<int32_t>& s = *symbols;
  std::array<Merged, kShortSymbols> pair;  // pair[i]: the merge of s[i] and s[i + 1]
  const auto look = [&](size_t i) {
    const Merged* found = Lookup(s[i], s[i + 1]);
    return found == nullptr ? Merged{kNoRank, -1} : *found;
  };
  for (size_t i = 0; i + 1 < s.size(); ++i) pair[i] = look(i);
  while (s.size() > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < s.size(); ++i) {
      if (pair[i].rank < pair[best].rank) best = i;
    }
    if (pair[best].rank == kNoRank) return;
    s[best] = pair[best].result;
    s.erase(s.begin() + static_cast<ptrdiff_t>(best) + 1);
    std::copy(pair.begin() + best + 1, pair.begin() + s.size(), pair.begin() + best);
    if (best + 1 < s.size()) pair[best] = look(best);
    if (best > 0) pair[best - 1] = look(best - 1);
  }
}

// A linked list of symbols and a heap of candidate merges; a candidate that a neighbouring merge
// made stale is recognised when it comes up, because the pair then joins to something else.
void Bpe::MergeLong(std::vector<int32_t>* symbols) const {
  struct Candidate {
    uint32_t rank;
    uint32_t at;
    int32_t result;
    bool operator>(const Candidate& o) const { return rank != o.rank ? rank > o.rank : at > o.at; }
  };
  constexpr uint32_t kEnd = std::numeric_limits<uint32_t>::max();
  std::vector<int32_t>& s = *symbols;
  TANDEM_CHECK_LT(s.size(), size_t{kEnd});
  const uint32_t n = static_cast<uint32_t>(s.size());
  std::vector<uint32_t> previous(n), next(n);
  for (uint32_t i = 0; i < n; ++i) {
    previous[i] = i == 0 ? kEnd : i - 1;
    next[i] = i + 1 == n ? kEnd : i + 1;
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](uint32_t at) {
    if (at == kEnd || next[at] == kEnd) return;
    const Merged* found = Lookup(s[at], s[next[at]]);
    if (found != nullptr) queue.push({found->rank, at, found->result});
  };
  for (uint32_t i = 0; i < n; ++i) offer(i);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    if (s[top.at] < 0 || next[top.at] == kEnd) continue;
    const uint32_t right = next[top.at];
    const Merged* found = Lookup(s[top.at], s[right]);
    if (found == nullptr || found->result != top.result) continue;
    s[top.at] = top.result;
    s[right] = -1;
    next[top.at] = next[right];
    if (next[right] != kEnd) previous[next[right]] = top.at;
    offer(previous[top.at]);
    offer(top.at);
  }
  s.erase(std::remove(s.begin(), s.end(), -1), s.end());
}

}  // namespace tandem::text
