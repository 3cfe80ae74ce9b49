#include "lib/model/text/detokenizer.h"

#include "lib/model/text/utf8.h"

namespace tandem {

std::string Detokenizer::Push(int32_t id) {
  if (!tokenizer_->HasId(id) || (skip_special_ && tokenizer_->IsSpecial(id))) return "";
  held_ += *tokenizer_->IdToPiece(id);
  std::string out;
  held_.erase(0, text::AppendLossy(held_, /*final=*/false, &out));
  return out;
}

std::string Detokenizer::Finish() {
  std::string out;
  text::AppendLossy(held_, /*final=*/true, &out);
  held_.clear();
  return out;
}

}  // namespace tandem
