#include "tests/cluster/quiz_prompts.h"

#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace tandem::cluster_test {
namespace {

std::string QuestionText(const nlohmann::json& row) {
  std::string text = absl::StrCat("Question: ", row.at("question").get<std::string>());
  for (size_t i = 0; i < row.at("choices").size(); ++i) {
    const std::string letter(1, static_cast<char>('A' + i));
    absl::StrAppend(&text, "\n", letter, ". ", row.at("choices")[i].get<std::string>());
  }
  return absl::StrCat(text, "\nAnswer: ");
}

}  // namespace

std::string QuizModelPath() {
  if (const char* model = std::getenv("TANDEM_TEST_MODEL")) return model;
  const char* source = std::getenv("TANDEM_SOURCE_DIR");
  return absl::StrCat(source != nullptr ? source : ".", "/models/quiz");
}

absl::StatusOr<std::vector<inference::v1::GenerateRequest>> QuizRequests(int count, int max_tokens,
                                                                         float temperature) {
  const std::string path = absl::StrCat(QuizModelPath(), "/quiz_test.jsonl");
  std::ifstream in(path);
  if (!in) return absl::NotFoundError(absl::StrCat(path, ": cannot open"));
  std::vector<inference::v1::GenerateRequest> requests;
  std::string line;
  while (static_cast<int>(requests.size()) < count && std::getline(in, line)) {
    const auto row = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (row.is_discarded()) return absl::DataLossError(absl::StrCat(path, ": not JSON: ", line));
    auto& request = requests.emplace_back();
    auto& message = *request.mutable_chat()->add_messages();
    message.set_role("user");
    message.set_content(QuestionText(row));
    request.set_max_tokens(max_tokens);
    request.mutable_sampling()->set_temperature(temperature);
    request.mutable_sampling()->set_seed(requests.size());
    request.mutable_sampling()->set_ignore_stop_tokens(true);
    request.mutable_sampling()->set_logprobs(true);
    request.mutable_sampling()->set_top_logprobs(8);
  }
  return requests;
}

}  // namespace tandem::cluster_test
