#include "coordinator/api/openai_response.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "lib/base/text.h"

namespace tandem::coordinator {
namespace {

using inference::v1::GenerateChunk;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

class OpenAiResponseTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto loaded = Tokenizer::FromTokenizerJson("models/quiz/tokenizer.json");
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    tokenizer_ = loaded->release();
  }

  static uint32_t Id(const std::string& piece) {
    const int32_t id = tokenizer_->PieceToId(piece);
    EXPECT_GE(id, 0) << piece;
    return static_cast<uint32_t>(id);
  }
  static uint32_t Eos() { return static_cast<uint32_t>(tokenizer_->eos_id()); }

  static void AddToken(uint32_t id, float logprob, GenerateChunk* chunk) {
    auto* token = chunk->add_tokens();
    token->set_id(id);
    token->mutable_logprobs()->mutable_chosen()->set_token_id(id);
    token->mutable_logprobs()->mutable_chosen()->set_logprob(logprob);
  }
  static void AddTop(uint32_t id, float logprob, GenerateChunk* chunk) {
    auto* top = chunk->mutable_tokens(chunk->tokens_size() - 1)->mutable_logprobs()->add_top();
    top->set_token_id(id);
    top->set_logprob(logprob);
  }
  static void AddPrompt(uint32_t id, float logprob, GenerateChunk* chunk) {
    auto* chosen = chunk->add_prompt_logprobs()->mutable_chosen();
    chosen->set_token_id(id);
    chosen->set_logprob(logprob);
  }

  ChoiceRenderer Renderer(PromptEcho echo = {}) { return {tokenizer_, &call_, 3, echo}; }

  static Tokenizer* tokenizer_;
  OpenAiCall call_;
};
Tokenizer* OpenAiResponseTest::tokenizer_ = nullptr;

TEST_F(OpenAiResponseTest, WholeChat) {
  call_.chat = true;
  call_.logprobs = 1;
  GenerateChunk chunk;
  AddToken(Id(" the"), -0.1f, &chunk);
  AddTop(Id(" is"), -0.05f, &chunk);
  chunk.set_text(" the");
  chunk.set_finish_reason(inference::v1::FINISH_REASON_LENGTH);
  const OutputJson choice = Renderer().Whole(chunk);
  EXPECT_EQ(choice["index"], 3);
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["message"]["content"], " the");
  EXPECT_EQ(choice["finish_reason"], "length");
  const OutputJson& entry = choice["logprobs"]["content"][0];
  EXPECT_EQ(entry["token"], " the");
  EXPECT_EQ(entry["bytes"], OutputJson({32, 116, 104, 101}));
  EXPECT_EQ(entry["top_logprobs"][0]["token"], " is");
}

TEST_F(OpenAiResponseTest, FloatsComeBackWithTheirBits) {
  call_.logprobs = 0;
  for (const float value : {-0.1f, -1.1754944e-38f, -1e-45f, -17.39482f, -0.0f, -88.72284f}) {
    GenerateChunk chunk;
    AddToken(Id(" the"), value, &chunk);
    const OutputJson choice = Renderer().Whole(chunk);
    const double read = OutputJson::parse(DumpJson(choice))["logprobs"]["token_logprobs"][0];
    EXPECT_EQ(static_cast<float>(read), value);
    EXPECT_EQ(read, static_cast<double>(value));
  }
  GenerateChunk chunk;
  AddToken(Id(" the"), -INFINITY, &chunk);
  EXPECT_EQ(Renderer().Whole(chunk)["logprobs"]["token_logprobs"][0], -9999.0);
}

TEST_F(OpenAiResponseTest, StreamedChatBeginsWithTheRoleAndEndsWithTheReason) {
  call_.chat = true;
  ChoiceRenderer renderer = Renderer();
  GenerateChunk chunk;
  chunk.set_text("a");
  auto events = renderer.Events(chunk);
  ASSERT_THAT(events, SizeIs(2));
  EXPECT_EQ(events[0]["delta"]["role"], "assistant");
  EXPECT_EQ(events[1]["delta"], OutputJson({{"content", "a"}}));
  EXPECT_TRUE(events[1]["finish_reason"].is_null());
  GenerateChunk held;  // a token whose text comes later
  held.add_tokens()->set_id(5);
  EXPECT_THAT(renderer.Events(held), IsEmpty());
  chunk.set_finish_reason(inference::v1::FINISH_REASON_STOP);
  events = renderer.Events(chunk);
  ASSERT_THAT(events, SizeIs(2));
  EXPECT_EQ(events[1]["delta"], OutputJson::object());
  EXPECT_EQ(events[1]["finish_reason"], "stop");
}

TEST_F(OpenAiResponseTest, EchoHasPromptAndOneTokenMore) {
  call_.logprobs = 1;
  call_.echo = true;
  const PromptEcho echo = {"W the",
                           {static_cast<uint32_t>(tokenizer_->bos_id()), Id("W"), Id(" the")},
                           /*bos_added=*/true};
  GenerateChunk chunk;
  AddPrompt(Id("W"), -2, &chunk);
  AddPrompt(Id(" the"), -3, &chunk);
  AddToken(Eos(), -0.5f, &chunk);
  chunk.set_finish_reason(inference::v1::FINISH_REASON_STOP);
  const OutputJson choice = Renderer(echo).Whole(chunk);
  EXPECT_EQ(choice["text"], "W the");
  const OutputJson& logprobs = choice["logprobs"];
  EXPECT_EQ(logprobs["tokens"].size(), 4u);
  EXPECT_EQ(logprobs["token_logprobs"], OutputJson({nullptr, -2.0, -3.0, -0.5}));
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  EXPECT_EQ(logprobs["text_offset"], OutputJson({0, 0, 1, 5}));
}

TEST_F(OpenAiResponseTest, StreamedEchoComesOnce) {
  call_.echo = true;
  call_.logprobs = 0;
  ChoiceRenderer renderer = Renderer({"W", {Id("W")}, false});
  GenerateChunk chunk;
  AddToken(Id(" the"), -1, &chunk);
  chunk.set_text(" the");
  EXPECT_EQ(renderer.Events(chunk)[0]["text"], "W the");
  const OutputJson second = renderer.Events(chunk)[0];
  EXPECT_EQ(second["text"], " the");
  EXPECT_EQ(second["logprobs"]["text_offset"], OutputJson({5}));
}

TEST_F(OpenAiResponseTest, TheLikelierOfTwoEqualTextsIsKept) {
  call_.logprobs = 2;
  GenerateChunk chunk;
  AddToken(Id(" the"), -3, &chunk);
  AddTop(Id(" the"), -1, &chunk);
  AddTop(Id(" the"), -2, &chunk);
  EXPECT_EQ(Renderer().Whole(chunk)["logprobs"]["top_logprobs"][0], OutputJson({{" the", -1.0}}));
}

TEST_F(OpenAiResponseTest, HalvesOfCharacters) {
  uint32_t half = 0;
  while (base::IsValidUtf8(*tokenizer_->IdToPiece(static_cast<int32_t>(half)))) ++half;
  EXPECT_EQ(CompletionTokenText(*tokenizer_, half).rfind("bytes:\\x", 0), 0u);
  call_.chat = true;
  call_.logprobs = 0;
  GenerateChunk chunk;
  AddToken(half, -1, &chunk);
  const OutputJson read = OutputJson::parse(DumpJson(Renderer().Whole(chunk)));
  EXPECT_EQ(read["logprobs"]["content"][0]["token"], "\xEF\xBF\xBD");
  EXPECT_EQ(read["logprobs"]["content"][0]["bytes"].size(), 1u);
  EXPECT_EQ(CompletionTokenText(*tokenizer_, UINT32_MAX), "");  // no such token
}

TEST_F(OpenAiResponseTest, OffsetsStayInsideATextThatAStopStringCut) {
  call_.logprobs = 0;
  GenerateChunk chunk;
  AddToken(Id(" the"), -1, &chunk);
  AddToken(Id(" is"), -1, &chunk);
  chunk.set_text(" t");
  chunk.set_stop_string("he");
  chunk.set_finish_reason(inference::v1::FINISH_REASON_STOP);
  EXPECT_EQ(Renderer().Whole(chunk)["logprobs"]["text_offset"], OutputJson({0, 2}));
}

TEST(OpenAiBodies, Whole) {
  const OpenAiEnvelope envelope = {"chatcmpl-1", 123, "m", "fp_0"};
  const OutputJson body =
      OutputJson::parse(WholeBody(envelope, true, {R"({"index":0})", R"({"index":1})"}, {5, 2}));
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(body["created"], 123);
  EXPECT_EQ(body["usage"]["total_tokens"], 7);
  EXPECT_EQ(body["choices"].size(), 2u);
  EXPECT_EQ(body["choices"][1]["index"], 1);
}

TEST(OpenAiBodies, UsageOnlyWhereAsked) {
  const OpenAiEnvelope envelope = {"cmpl-1", 123, "m", "fp_0"};
  const auto event = [&](bool usage) {
    return OutputJson::parse(EventBody(envelope, false, {{"index", 0}}, usage));
  };
  EXPECT_FALSE(event(false).contains("usage"));
  EXPECT_TRUE(event(true)["usage"].is_null());
  EXPECT_EQ(event(true)["choices"][0]["index"], 0);
  const OutputJson last = OutputJson::parse(UsageBody(envelope, true, {5, 2}));
  EXPECT_EQ(last["object"], "chat.completion.chunk");
  EXPECT_TRUE(last["choices"].empty());
  EXPECT_EQ(last["usage"]["completion_tokens"], 2);
}

}  // namespace
}  // namespace tandem::coordinator
