// Prompts for process tests: token ids of questions of the model that ships with the project, asked
// as the eval client asks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/cluster/inference_client.h"

namespace tandem::cluster_test {

// <source>/models/quiz, or $TANDEM_TEST_MODEL.
std::string QuizModelPath();

// Requests for the first `count` questions of models/quiz/quiz_test.jsonl as chat prompts,
// `max_tokens` long, stop tokens ignored so that each answer has the same length. `temperature` 0
// is greedy; seeds are 1, 2, 3, ...
absl::StatusOr<std::vector<inference::v1::GenerateRequest>> QuizRequests(int count, int max_tokens,
                                                                         float temperature);

}  // namespace tandem::cluster_test
