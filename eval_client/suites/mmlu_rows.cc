#include "eval_client/suites/mmlu_rows.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "eval_client/suites/choice_prompt.h"
#include "eval_client/suites/csv.h"
#include "eval_client/suites/digest.h"
#include "eval_client/suites/rows.h"
#include "lib/base/mapped_file.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> CsvFiles(const fs::path& directory, const std::string& ending) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (name.size() > ending.size() && name.ends_with(ending)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<MmluRow> RowOfCsv(const std::string& id, const std::string& subject,
                                 const CsvRow& fields) {
  if (fields.size() != kChoices + 2) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: expected question, 4 choices and a letter, found %d fields", id, fields.size()));
  }
  const std::string& letter = fields.back();
  if (letter.size() != 1 || letter[0] < 'A' || letter[0] > 'D') {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: expected an answer A to D, found '%s'", id, letter));
  }
  return MmluRow{id, subject, fields[0], {fields.begin() + 1, fields.end() - 1}, letter};
}

absl::Status AppendCsv(const fs::path& path, const std::string& part, MmluPart* out) {
  TANDEM_ASSIGN_OR_RETURN(const base::MappedFile file, base::MappedFile::Open(path.string()));
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  const std::string name = path.filename().string();
  absl::StrAppend(&out->files_text, name, "  ", Sha256Hex(text), "\n");
  auto rows = ParseCsv(text);
  if (!rows.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": ", rows.status().message()));
  }
  const std::string subject =
      name.substr(0, name.size() - part.size() - std::string("_.csv").size());
  for (size_t i = 0; i < rows->size(); ++i) {
    TANDEM_ASSIGN_OR_RETURN(
        MmluRow row, RowOfCsv(absl::StrFormat("%s/%s/%d", subject, part, i), subject, (*rows)[i]));
    out->rows.push_back(std::move(row));
  }
  return absl::OkStatus();
}

absl::StatusOr<MmluRow> RowOfJson(const nlohmann::json& object, const std::string& part,
                                  std::map<std::string, int>* next_of_subject) {
  MmluRow row;
  TANDEM_ASSIGN_OR_RETURN(row.subject, StringOf(object, "subject"));
  TANDEM_ASSIGN_OR_RETURN(row.question, StringOf(object, "question"));
  TANDEM_ASSIGN_OR_RETURN(row.choices, StringsOf(object, "choices", kChoices, kChoices));
  const auto answer = object.find("answer");
  const bool good = answer != object.end() && answer->is_number_integer() &&
                    answer->get<int64_t>() >= 0 && answer->get<int64_t>() < kChoices;
  if (!good) return absl::InvalidArgumentError("expected \"answer\" from 0 to 3");
  row.letter = std::string(1, static_cast<char>('A' + answer->get<int64_t>()));
  row.id = absl::StrFormat("%s/%s/%d", row.subject, part, (*next_of_subject)[row.subject]++);
  return row;
}

absl::StatusOr<MmluPart> ReadRows(const std::string& directory, const std::string& part) {
  TANDEM_ASSIGN_OR_RETURN(const DataSet set, ReadPart(directory, part));
  MmluPart out;
  out.files_text = set.files_text;
  std::map<std::string, int> next_of_subject;
  for (const auto& object : set.rows) {
    auto row = RowOfJson(object, part, &next_of_subject);
    if (!row.ok()) {
      return absl::InvalidArgumentError(absl::StrFormat("%s row %d: %s", directory, out.rows.size(),
                                                        std::string(row.status().message())));
    }
    out.rows.push_back(*std::move(row));
  }
  out.subjects = static_cast<int>(next_of_subject.size());
  return out;
}

}  // namespace

absl::StatusOr<MmluPart> ReadMmluPart(const std::string& directory, const std::string& part) {
  const std::string ending = absl::StrCat("_", part, ".csv");
  fs::path folder = directory;
  std::vector<std::string> names = CsvFiles(folder, ending);
  if (names.empty()) names = CsvFiles(folder = fs::path(directory) / part, ending);
  if (names.empty() && FindFiles(directory, part).ok()) return ReadRows(directory, part);
  MmluPart out;
  out.subjects = static_cast<int>(names.size());
  for (const std::string& name : names) {
    TANDEM_RETURN_IF_ERROR(AppendCsv(folder / name, part, &out));
  }
  return out;
}

}  // namespace tandem::eval
