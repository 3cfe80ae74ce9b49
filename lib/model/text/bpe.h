// Byte-pair encoding of one pre-tokenizer piece: starting from single bytes, the adjacent pair with
// the lowest rank is merged (the leftmost of equals) until no known pair is left. (Sennrich et al.,
// 2016; GPT-2's byte-level variant.)
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tandem::text {

struct MergeRule {
  int32_t left, right;  // token ids
  uint32_t rank;        // lower merges first
  int32_t result;       // token id of the two pieces joined
};

class Bpe {
 public:
  // `pieces` are raw bytes by id and must outlive this object; `usable[id]` says that BPE may
  // produce the id. `whole_first`: a piece that is a token is taken whole without merging
  // (tokenizer.json's ignore_merges, and tiktoken). InvalidArgument unless every byte that occurs
  // in UTF-8 is a token.
  static absl::StatusOr<Bpe> Make(const std::vector<std::string>& pieces,
                                  const std::vector<bool>& usable,
                                  const std::vector<MergeRule>& merges, bool whole_first);

  // Appends the ids of `piece`. Time O(n log n) in its length; never fails for well-formed UTF-8.
  void Encode(std::string_view piece, std::vector<int32_t>* ids) const;

  // The id of a whole piece, or -1.
  int32_t Find(std::string_view piece) const;

 private:
  struct Merged {
    uint32_t rank;
    int32_t result;
  };
  void FillBytes();
  void FindShortcuts(const std::vector<std::string>& pieces);
  const Merged* Lookup(int32_t left, int32_t right) const;
  void Merge(std::string_view piece, std::vector<int32_t>* ids) const;
  void MergeShort(std::vector<int32_t>* symbols) const;
  void MergeLong(std::vector<int32_t>* symbols) const;

  absl::flat_hash_map<absl::string_view, int32_t> id_of_piece_;
  absl::flat_hash_map<uint64_t, Merged> merges_;  // key: left id << 32 | right id
  std::array<int32_t, 256> id_of_byte_;
  std::vector<bool> shortcut_;  // by id: the whole piece may be taken without merging
};

}  // namespace tandem::text
