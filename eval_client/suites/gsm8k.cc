#include "eval_client/suites/gsm8k.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "eval_client/suites/gsm8k_shots.h"
#include "eval_client/suites/loaded_suite.h"
#include "eval_client/suites/python_random.h"
#include "eval_client/suites/python_text.h"
#include "eval_client/suites/rows.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

constexpr int kLmEvalShots = 5;
constexpr int kLmEvalShotsMax = 100;
constexpr uint64_t kLmEvalFewShotSeed = 1234;  // lm_eval's default fewshot_random_seed
constexpr uint32_t kLmEvalTokensMax = 256;     // its max_gen_toks where a task does not say
constexpr uint32_t kSospTokensMax = 1024;

struct Row {
  std::string question;
  std::string answer;
  std::string gold;
};

absl::StatusOr<Row> MakeRow(const nlohmann::json& object) {
  Row row;
  TANDEM_ASSIGN_OR_RETURN(row.question, StringOf(object, "question"));
  TANDEM_ASSIGN_OR_RETURN(row.answer, StringOf(object, "answer"));
  constexpr std::string_view kMark = "#### ";
  const size_t mark = row.answer.rfind(kMark);
  if (mark == std::string::npos) {
    return absl::InvalidArgumentError("expected an \"answer\" that ends in #### and a number");
  }
  row.gold =
      PythonReplace(PythonStrip(std::string_view(row.answer).substr(mark + kMark.size())), ",", "");
  if (!PythonFloat(row.gold)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("expected a number after ####, found '%s'", row.gold));
  }
  return row;
}

absl::StatusOr<std::vector<Row>> ReadRows(const std::string& folder, const std::string& part,
                                          std::string* files_text) {
  TANDEM_ASSIGN_OR_RETURN(const DataSet set, ReadPart(folder, part));
  *files_text += set.files_text;
  std::vector<Row> rows;
  for (const auto& object : set.rows) {
    auto row = MakeRow(object);
    if (!row.ok()) {
      return absl::InvalidArgumentError(absl::StrFormat("%s row %d: %s", folder, rows.size(),
                                                        std::string(row.status().message())));
    }
    rows.push_back(*std::move(row));
  }
  return rows;
}

std::string Asked(std::string_view question) {
  return absl::StrCat("Question: ", std::string(question), "\nAnswer:");
}

std::string Solved(std::string_view question, std::string_view answer) {
  return absl::StrCat(Asked(question), " ", std::string(answer), "\n\n");
}

Question MakeQuestion(size_t index, const Row& row, std::string before) {
  return {.id = absl::StrCat("gsm8k/test/", index),
          .subject = "gsm8k",
          .prompt = std::move(before) + Asked(row.question),
          .gold = row.gold,
          .kind = AnswerKind::kNumber,
          .letters = 0,
          .form = PromptForm::kText,
          .temperature = 0.0f};
}

std::vector<Question> AsSosp(const std::vector<Row>& rows, int shots) {
  std::string before;
  for (int i = 0; i < shots; ++i) {
    const Gsm8kShot& shot = Gsm8kShotsOfArtifact()[i];
    before += Solved(shot.question, shot.answer);
  }
  std::vector<Question> questions;
  for (const Row& row : rows) {
    questions.push_back(MakeQuestion(questions.size(), row, before));
    questions.back().stop = {"\nQuestion"};
    questions.back().max_tokens = kSospTokensMax;
  }
  return questions;
}

// The draws follow one another through all questions, so each needs those before it.
std::vector<Question> AsLmEval(const std::vector<Row>& rows, const std::vector<Row>& train,
                               int shots) {
  PythonRandom random(kLmEvalFewShotSeed);
  std::vector<Question> questions;
  for (const Row& row : rows) {
    std::string before;
    for (const size_t index : random.Sample(train.size(), static_cast<size_t>(shots))) {
      before += Solved(train[index].question, train[index].answer);
    }
    questions.push_back(MakeQuestion(questions.size(), row, std::move(before)));
    questions.back().stop = {"Question:", "</s>", "<|im_end|>"};
    questions.back().max_tokens = kLmEvalTokensMax;
  }
  return questions;
}

absl::StatusOr<std::unique_ptr<Suite>> LoadLmEval(const SuiteOptions& options,
                                                  const std::string& folder,
                                                  const std::vector<Row>& rows,
                                                  std::string files_text) {
  const int shots = options.shots < 0 ? kLmEvalShots : options.shots;
  std::vector<Row> train;
  if (shots > 0) {
    TANDEM_ASSIGN_OR_RETURN(train, ReadRows(folder, "train", &files_text));
    if (static_cast<int>(train.size()) < shots) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: expected at least %d training questions, found %d", folder, shots, train.size()));
    }
  }
  return MakeLoadedSuite(options, AsLmEval(rows, train, shots), AnswerParser::kHashes, files_text);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Suite>> LoadGsm8k(const SuiteOptions& options) {
  const int shots_max = options.variant == "lm-eval" ? kLmEvalShotsMax : kGsm8kShots;
  TANDEM_ASSIGN_OR_RETURN(
      const std::string variant,
      CheckOptions(options, {"sosp", "lm-eval"}, shots_max, /*has_samples=*/false));
  const std::string folder = DataFolder(options.data, "gsm8k");
  std::string files_text;
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Row> rows, ReadRows(folder, "test", &files_text));
  if (variant == "lm-eval") return LoadLmEval(options, folder, rows, std::move(files_text));
  const int shots = options.shots < 0 ? kGsm8kShots : options.shots;
  return MakeLoadedSuite(options, AsSosp(rows, shots), AnswerParser::kAnswerPhrase, files_text);
}

}  // namespace tandem::eval
