#include "eval_client/client/openai_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

using Json = nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

AskOptions FourLetters() {
  AskOptions options;
  options.letters = 4;
  return options;
}

TEST(OpenAiRequest, ChatAsksForTheMostAlternatives) {
  AskOptions options = FourLetters();
  options.temperature = 0.5f;
  options.max_tokens = 7;
  options.stop = {"\n\n"};
  const Json body = Json::parse(OpenAiRequestBody("m", "Why \"so\"?", 1ull << 40 | 5, options));
  EXPECT_EQ(body["model"], "m");
  EXPECT_EQ(body["messages"], Json::parse(R"([{"role": "user", "content": "Why \"so\"?"}])"));
  EXPECT_EQ(body["temperature"], 0.5);
  EXPECT_EQ(body["max_tokens"], 7);
  EXPECT_EQ(body["seed"], 5);
  EXPECT_EQ(body["stop"], Json::array({"\n\n"}));
  EXPECT_EQ(body["stream"], false);
  EXPECT_EQ(body["logprobs"], true);
  EXPECT_EQ(body["top_logprobs"], 20);
}

TEST(OpenAiRequest, TextGoesToCompletionsAndAsksForNothingItDoesNotNeed) {
  AskOptions options;
  options.continue_text = true;
  const Json body = Json::parse(OpenAiRequestBody("m", "Once", 0, options));
  EXPECT_EQ(body["prompt"], "Once");
  EXPECT_FALSE(body.contains("messages"));
  EXPECT_FALSE(body.contains("logprobs"));
  EXPECT_FALSE(body.contains("stop"));
}

TEST(OpenAiReply, ChatWithLetters) {
  const Answer answer = OpenAiAnswer(R"({
      "choices": [{"index": 0, "finish_reason": "stop",
        "message": {"role": "assistant", "content": "B"},
        "logprobs": {"content": [{"token": "B", "logprob": -0.25, "top_logprobs": [
          {"token": "B", "logprob": -0.25}, {"token": "A", "logprob": -2.5},
          {"token": " B", "logprob": -3}, {"token": "D", "logprob": -4},
          {"token": "C", "logprob": -5}]}]}}],
      "usage": {"prompt_tokens": 11, "completion_tokens": 1}})",
                                     FourLetters());
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.text, "B");
  EXPECT_EQ(answer.finish, Finish::kStop);
  EXPECT_EQ(answer.prompt_tokens, 11u);
  EXPECT_EQ(answer.completion_tokens, 1u);
  EXPECT_THAT(answer.letter_logprobs, ElementsAre(-2.5f, -0.25f, -5.0f, -4.0f));
}

TEST(OpenAiReply, TextWithLettersBehindASpace) {
  AskOptions options = FourLetters();
  options.continue_text = true;
  const Answer answer = OpenAiAnswer(R"({
      "choices": [{"text": " A then", "finish_reason": "length", "logprobs": {
        "tokens": [" A", " then"], "top_logprobs": [
          {" A": -1, " B": -2, " C": -3, " D": -4}, {" then": -1}]}}]})",
                                     options);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.finish, Finish::kLength);
  EXPECT_THAT(answer.letter_logprobs, ElementsAre(-1.0f, -2.0f, -3.0f, -4.0f));
}

TEST(OpenAiReply, ALetterThatIsNotListedLeavesNone) {
  const Answer answer = OpenAiAnswer(R"({"choices": [{"finish_reason": "stop",
      "message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": [
        {"token": "A", "logprob": -0.1}]}]}}]})",
                                     FourLetters());
  EXPECT_TRUE(answer.status.ok());
  EXPECT_TRUE(answer.letter_logprobs.empty());
}

TEST(OpenAiReply, AnEmptyAnswerIsAnAnswer) {
  const Answer answer = OpenAiAnswer(
      R"({"choices": [{"finish_reason": "stop", "message": {"content": null}, "logprobs": null}]})",
      FourLetters());
  EXPECT_TRUE(answer.status.ok());
  EXPECT_EQ(answer.text, "");
}

TEST(OpenAiReply, WhatIsNoCompletionIsAnError) {
  for (const char* body : {"", "{}", "[]", "nonsense", R"({"choices": []})",
                           R"({"choices": [{"message": {"content": 3}, "finish_reason": 1}]})"}) {
    EXPECT_EQ(OpenAiAnswer(body, {}).status.code(), absl::StatusCode::kInternal) << body;
  }
}

TEST(OpenAiRefusal, CodesAndMessages) {
  const Answer busy = OpenAiRefusal(429, R"({"error": {"message": "slow down"}})", "2.5");
  EXPECT_EQ(busy.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(busy.status.message()), HasSubstr("HTTP 429: slow down"));
  EXPECT_EQ(busy.retry_after, absl::Milliseconds(2500));
  EXPECT_EQ(OpenAiRefusal(429, "", "Fri, 01 Jan 2027").retry_after, absl::ZeroDuration());
  EXPECT_EQ(OpenAiRefusal(503, "", "").status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(OpenAiRefusal(400, "", "").status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OpenAiRefusal(401, "", "").status.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(OpenAiRefusal(404, "", "").status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenAiRefusal(302, "", "").status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(
      std::string(OpenAiRefusal(422, R"({"detail": [{"msg": "no"}]})", "").status.message()),
      HasSubstr("no"));
}

TEST(OpenAiModels, FirstOrTheOneWanted) {
  const std::string list = R"({"data": [{"id": "one"}, {"id": "two"}]})";
  EXPECT_EQ(*OpenAiModel(list, ""), "one");
  EXPECT_EQ(*OpenAiModel(list, "two"), "two");
  EXPECT_THAT(std::string(OpenAiModel(list, "three").status().message()), HasSubstr("one, two"));
  EXPECT_EQ(OpenAiModel(R"({"data": []})", "").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenAiModel("<html>", "").status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace tandem::eval
