#include "eval_client/suites/csv.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  absl::StatusOr<std::vector<CsvRow>> ReadAll() {
    std::vector<CsvRow> rows;
    while (at_ < text_.size()) {
      TANDEM_ASSIGN_OR_RETURN(CsvRow row, ReadRow());
      rows.push_back(std::move(row));
    }
    return rows;
  }

 private:
  bool AtLineEnd() const { return at_ == text_.size() || text_[at_] == '\n' || text_[at_] == '\r'; }

  void SkipLineEnd() {
    if (at_ < text_.size() && text_[at_] == '\r') ++at_;
    if (at_ < text_.size() && text_[at_] == '\n') ++at_;
    ++line_;
  }

  absl::StatusOr<CsvRow> ReadRow() {
    CsvRow row;
    while (true) {
      const bool quoted = at_ < text_.size() && text_[at_] == '"';
      TANDEM_ASSIGN_OR_RETURN(std::string field, quoted ? ReadQuoted() : ReadPlain());
      row.push_back(std::move(field));
      if (AtLineEnd()) break;
      ++at_;  // the comma
    }
    SkipLineEnd();
    return row;
  }

  absl::StatusOr<std::string> ReadPlain() {
    const size_t start = at_;
    while (!AtLineEnd() && text_[at_] != ',') {
      if (text_[at_] == '"') return Error("a quote inside an unquoted field");
      ++at_;
    }
    return std::string(text_.substr(start, at_ - start));
  }

  absl::StatusOr<std::string> ReadQuoted() {
    const int line_of_quote = line_;
    std::string field;
    for (++at_; at_ < text_.size(); ++at_) {
      if (text_[at_] == '\n') ++line_;
      if (text_[at_] != '"') {
        field += text_[at_];
      } else if (at_ + 1 < text_.size() && text_[at_ + 1] == '"') {
        field += text_[++at_];
      } else {
        ++at_;
        if (!AtLineEnd() && text_[at_] != ',') return Error("text after a closing quote");
        return field;
      }
    }
    line_ = line_of_quote;
    return Error("a quote that is never closed");
  }

  absl::Status Error(const char* what) const {
    return absl::InvalidArgumentError(
        absl::StrFormat("line %d: expected RFC 4180 CSV, found %s", line_, what));
  }

  std::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

absl::StatusOr<std::vector<CsvRow>> ParseCsv(std::string_view text) {
  return Reader(text).ReadAll();
}

}  // namespace tandem::eval
