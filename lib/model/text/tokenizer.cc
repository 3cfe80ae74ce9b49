#include "lib/model/text/tokenizer.h"

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/model/text/tokenizer_parts.h"
#include "lib/model/text/utf8.h"

namespace tandem {
namespace {

// Offsets and heap positions are 32-bit inside BPE; a prompt is a few megabytes.
constexpr size_t kTextBytesMax = size_t{1} << 30;

absl::Status CheckText(std::string_view text) {
  if (text.size() > kTextBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("text has ", text.size(), " bytes, expected at most ", kTextBytesMax));
  }
  for (size_t at = 0; at < text.size();) {
    if (static_cast<uint8_t>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const text::Utf8Step step = text::ScanUtf8(text.substr(at));
    if (step.kind != text::Utf8Kind::kWhole) {
      return absl::InvalidArgumentError(
          absl::StrCat("text is not valid UTF-8 at byte ", at, " of ", text.size()));
    }
    at += step.byte_count;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       EncodeOptions options) const {
  TANDEM_RETURN_IF_ERROR(CheckText(text));
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 1);
  if (options.add_bos) {
    if (bos_id_ < 0) return absl::InvalidArgumentError("add_bos: the vocabulary has no bos token");
    ids.push_back(bos_id_);
  }
  std::vector<text::Segment> segments = {{text, -1}};
  if (options.parse_special) segments = added_.Split(text);
  std::vector<std::string_view> pieces;
  for (const text::Segment& segment : segments) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    pieces.clear();
    TANDEM_RETURN_IF_ERROR(pre_.Split(segment.text, &pieces));
    for (const std::string_view piece : pieces) bpe_.Encode(piece, &ids);
  }
  return ids;
}

absl::StatusOr<std::string> Tokenizer::Decode(const std::vector<int32_t>& ids,
                                              bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    TANDEM_ASSIGN_OR_RETURN(const std::string_view piece, IdToPiece(id));
    if (!(skip_special && IsSpecial(id))) bytes += piece;
  }
  std::string out;
  out.reserve(bytes.size());
  text::AppendLossy(bytes, /*final=*/true, &out);
  return out;
}

absl::StatusOr<std::string_view> Tokenizer::IdToPiece(int32_t id) const {
  if (!HasId(id)) {
    return absl::InvalidArgumentError(
        absl::StrCat("token id ", id, " is not in the vocabulary of ", vocab_size(), " ids"));
  }
  return std::string_view(pieces_[static_cast<size_t>(id)]);
}

int32_t Tokenizer::PieceToId(std::string_view piece) const {
  const int32_t added = added_.Find(piece);
  return added >= 0 ? added : bpe_.Find(piece);
}

bool Tokenizer::HasId(int32_t id) const {
  return id >= 0 && id < vocab_size() && (flags_[static_cast<size_t>(id)] & text::kPresent) != 0;
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return HasId(id) && (flags_[static_cast<size_t>(id)] & text::kSpecial) != 0;
}

bool Tokenizer::IsAdded(int32_t id) const {
  return HasId(id) && (flags_[static_cast<size_t>(id)] & text::kAdded) != 0;
}

}  // namespace tandem
