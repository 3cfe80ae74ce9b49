#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "coordinator/request/answer.h"
#include "coordinator/request/generation.h"
#include "lib/model/text/byte_level.h"

namespace tandem::coordinator {
namespace {

using inference::v1::GenerateRequest;
using testing::ElementsAre;
using testing::HasSubstr;

const RequestLimits kLimits = {.context_tokens = 10, .vocab_size = 300, .eos_token_ids = {256, 7}};

GenerateRequest Good() {
  GenerateRequest request;
  request.mutable_tokens()->add_ids(1);
  request.set_max_tokens(5);
  return request;
}

TEST(GenerationTest, ValuesThatMakeNoSenseAreRefused) {
  EXPECT_TRUE(CheckGenerateRequest(Good(), kLimits).ok());
  const std::vector<std::function<void(GenerateRequest*)>> spoilers = {
      [](auto* r) { r->clear_prompt(); },
      [](auto* r) { r->mutable_sampling()->set_temperature(NAN); },
      [](auto* r) { r->mutable_sampling()->set_temperature(-1); },
      [](auto* r) { r->mutable_sampling()->set_temperature(INFINITY); },
      [](auto* r) { r->mutable_sampling()->set_top_p(1.5); },
      [](auto* r) { r->mutable_sampling()->set_min_p(-0.1); },
      [](auto* r) { r->mutable_sampling()->set_repetition_penalty(-1); },
      [](auto* r) { r->mutable_sampling()->set_top_logprobs(257); },
      [](auto* r) {
        for (int i = 0; i < 257; ++i) r->mutable_sampling()->add_logprob_token_ids(1);
      },
      [](auto* r) { r->mutable_sampling()->add_logprob_token_ids(1u << 30); },
      [](auto* r) { r->mutable_sampling()->add_stop_token_ids(300); },
      [](auto* r) { (*r->mutable_sampling()->mutable_logit_bias())[300] = 1; },
      [](auto* r) { (*r->mutable_sampling()->mutable_logit_bias())[3] = NAN; },
      [](auto* r) { r->add_stop(""); },
      [](auto* r) { r->add_stop(std::string(2000, 'x')); },
      [](auto* r) {
        for (int i = 0; i < 65; ++i) r->add_stop("x");
      },
      [](auto* r) { r->set_prompt_logprobs_plus1(1000); },
      [](auto* r) { r->set_request_id(std::string(1000, 'x')); },
  };
  for (size_t i = 0; i < spoilers.size(); ++i) {
    GenerateRequest request = Good();
    spoilers[i](&request);
    const absl::Status status = CheckGenerateRequest(request, kLimits);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << i;
    EXPECT_THAT(std::string(status.message()), HasSubstr("expected")) << i;
  }
}

TEST(GenerationTest, TheAnswerIsCutToTheContextAndEndTokensAreAdded) {
  GenerateRequest request = Good();
  request.set_max_tokens(0xFFFFFFFF);
  request.mutable_sampling()->add_stop_token_ids(7);
  const auto generation = MakeGeneration(request, {1, 2, 3}, kLimits);
  ASSERT_TRUE(generation.ok());
  EXPECT_EQ(generation->max_tokens, 7u);
  EXPECT_THAT(generation->sampling.stop_token_ids(), ElementsAre(7, 256));
}

TEST(GenerationTest, PromptsThatDoNotFitAreRefusedWithNumbers) {
  EXPECT_FALSE(MakeGeneration(Good(), {}, kLimits).ok());
  EXPECT_FALSE(MakeGeneration(Good(), {300}, kLimits).ok());
  const auto full = MakeGeneration(Good(), std::vector<uint32_t>(10, 1), kLimits);
  EXPECT_THAT(std::string(full.status().message()),
              HasSubstr("the prompt has 10 tokens, the context holds 10"));
  GenerateRequest score = Good();
  score.set_max_tokens(0);
  EXPECT_TRUE(MakeGeneration(score, std::vector<uint32_t>(10, 1), kLimits).ok());
  EXPECT_FALSE(MakeGeneration(score, std::vector<uint32_t>(11, 1), kLimits).ok());
}

class AnswerTest : public testing::Test {
 protected:
  void SetUp() override {
    TokenizerFields fields;
    fields.model = "gpt2";
    fields.pre = "deepseek-llm";
    for (int byte = 0; byte < 256; ++byte) {
      fields.tokens.push_back(text::RawToByteLevel(std::string(1, static_cast<char>(byte))));
      fields.token_types.push_back(1);
    }
    auto made = Tokenizer::FromGgufFields(fields);
    ASSERT_TRUE(made.ok()) << made.status();
    tokenizer_ = *std::move(made);
  }

  // Pushes the bytes until the answer ends; returns all text, and the last chunk.
  std::pair<std::string, inference::v1::GenerateChunk> Push(Answer* answer,
                                                            const std::string& bytes) {
    std::string text;
    inference::v1::GenerateChunk chunk;
    for (const char byte : bytes) {
      if (answer->finished()) break;
      chunk = answer->Push(static_cast<unsigned char>(byte), false, std::nullopt);
      text += chunk.text();
    }
    return {text, chunk};
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(AnswerTest, CharactersComeWhole) {
  Answer answer(tokenizer_.get(), {}, 100);
  EXPECT_EQ(answer.Push(0xC3, false, std::nullopt).text(), "");
  EXPECT_EQ(answer.Push(0xA9, false, std::nullopt).text(), "\xC3\xA9");
}

TEST_F(AnswerTest, TheLengthEndsItAndWhatWasHeldBackComesOut) {
  Answer answer(tokenizer_.get(), {"STOP"}, 5);
  const auto [text, last] = Push(&answer, "abcST");
  EXPECT_EQ(text, "abcST");
  EXPECT_EQ(last.finish_reason(), inference::v1::FINISH_REASON_LENGTH);
  Answer half(tokenizer_.get(), {}, 1);
  EXPECT_EQ(half.Push(0xC3, false, std::nullopt).text(), "\xEF\xBF\xBD");
}

TEST_F(AnswerTest, AStopStringEndsItAndNothingOfItComesOut) {
  Answer answer(tokenizer_.get(), {"never", "STOP"}, 100);
  const auto [text, last] = Push(&answer, "abcSTSTOPxyz");
  EXPECT_EQ(text, "abcST");
  EXPECT_EQ(last.finish_reason(), inference::v1::FINISH_REASON_STOP);
  EXPECT_EQ(last.stop_string(), "STOP");
  EXPECT_EQ(answer.tokens(), 9u);
}

TEST_F(AnswerTest, AStopTokenEndsItWithoutItsText) {
  Answer answer(tokenizer_.get(), {"bX"}, 100);
  Push(&answer, "ab");
  const auto last = answer.Push('X', true, std::nullopt);
  EXPECT_EQ(last.text(), "b");
  EXPECT_EQ(last.stop_token_id(), uint32_t{'X'});
  EXPECT_EQ(last.tokens(0).id(), uint32_t{'X'});
  EXPECT_TRUE(answer.finished());
}

TEST_F(AnswerTest, ALowerLimitEndsItEarlierButNotInThePast) {
  Answer answer(tokenizer_.get(), {}, 100);
  Push(&answer, "abc");
  answer.LimitTokens(2);
  EXPECT_FALSE(answer.finished());
  EXPECT_EQ(Push(&answer, "def").first, "d");
}

}  // namespace
}  // namespace tandem::coordinator
