#include "coordinator/api/openai_reply.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::coordinator {
namespace {

using inference::v1::GenerateChunk;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;

GenerateChunk Text(const std::string& text) {
  GenerateChunk chunk;
  chunk.set_text(text);
  return chunk;
}

GenerateChunk Last(const std::string& text, uint32_t tokens) {
  GenerateChunk chunk = Text(text);
  chunk.set_finish_reason(inference::v1::FINISH_REASON_STOP);
  chunk.set_completion_tokens(tokens);
  return chunk;
}

class OpenAiReplyTest : public testing::Test {
 protected:
  void SetUp() override {
    auto loaded = Tokenizer::FromTokenizerJson("models/quiz/tokenizer.json");
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    tokenizer_ = *std::move(loaded);
  }

  std::unique_ptr<OpenAiReply> Make(bool stream, size_t answers) {
    OpenAiReplyParts parts;
    parts.call = std::make_unique<OpenAiCall>();
    parts.call->chat = true;
    parts.call->stream = stream;
    parts.call->include_usage = stream;
    parts.inbox = std::make_shared<AnswerInbox>(answers, stream, [this] { ++wakes_; });
    generations_ = std::vector<GenerationRequest>(answers);
    for (size_t i = 0; i < answers; ++i) {
      parts.renderers.emplace_back(tokenizer_.get(), parts.call.get(), i, PromptEcho());
      AnswerInbox::Connect(parts.inbox, i, &generations_[i]);
    }
    return std::make_unique<OpenAiReply>(std::move(parts));
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<GenerationRequest> generations_;
  int wakes_ = 0;
};

TEST_F(OpenAiReplyTest, WholeAnswerWaitsForAll) {
  const auto reply = Make(/*stream=*/false, 2);
  generations_[1].send(Text("b"));
  generations_[1].send(Last("c", 2));
  generations_[1].finish(absl::OkStatus());
  EXPECT_EQ(wakes_, 0);
  EXPECT_TRUE(reply->Take(true).empty());
  generations_[0].send(Last("a", 1));
  generations_[0].finish(absl::OkStatus());
  EXPECT_EQ(wakes_, 1);
  const HttpPart part = reply->Take(false);
  ASSERT_TRUE(part.last);
  const OutputJson body = OutputJson::parse(part.body);
  EXPECT_EQ(body["choices"][0]["message"]["content"], "a");
  EXPECT_EQ(body["choices"][1]["message"]["content"], "bc");
  EXPECT_EQ(body["usage"]["completion_tokens"], 3);
  EXPECT_TRUE(reply->Take(false).empty());
}

TEST_F(OpenAiReplyTest, OneFailureFailsAWholeAnswerAndStopsTheRest) {
  const auto reply = Make(/*stream=*/false, 2);
  generations_[0].finish(absl::UnavailableError("the worker is lost"));
  const HttpPart part = reply->Take(false);
  EXPECT_EQ(part.head->status, 503);
  EXPECT_THAT(part.body, HasSubstr("the worker is lost"));
  EXPECT_TRUE(generations_[1].cancelled->load());
}

TEST_F(OpenAiReplyTest, StreamMergesWhatNobodyTook) {
  const auto reply = Make(/*stream=*/true, 1);
  EXPECT_TRUE(reply->Take(false).empty());
  generations_[0].send(Text("a"));
  generations_[0].send(Text("b"));
  HttpPart part = reply->Take(false);
  ASSERT_TRUE(part.head.has_value());
  EXPECT_THAT(part.head->content_type, HasSubstr("text/event-stream"));
  EXPECT_THAT(part.body, HasSubstr(R"({"content":"ab"})"));
  EXPECT_FALSE(part.last);
  generations_[0].send(Last("c", 3));
  EXPECT_THAT(reply->Take(false).body, Not(HasSubstr("[DONE]")));
  generations_[0].finish(absl::OkStatus());
  part = reply->Take(false);
  EXPECT_FALSE(part.head.has_value());
  EXPECT_TRUE(part.last);
  EXPECT_THAT(part.body, HasSubstr(R"("completion_tokens":3)"));
  EXPECT_THAT(part.body, EndsWith("data: [DONE]\n\n"));
}

TEST_F(OpenAiReplyTest, StreamFailsWithAStatusBeforeTheFirstPartAndWithAnEventAfterIt) {
  auto reply = Make(/*stream=*/true, 1);
  generations_[0].finish(absl::ResourceExhaustedError("full"));
  EXPECT_EQ(reply->Take(false).head->status, 429);
  reply = Make(/*stream=*/true, 1);
  generations_[0].send(Text("a"));
  EXPECT_EQ(reply->Take(false).head->status, 200);
  generations_[0].send(Text("b"));
  generations_[0].finish(absl::InternalError("broken"));
  const HttpPart part = reply->Take(false);
  EXPECT_TRUE(part.last);
  EXPECT_THAT(part.body, HasSubstr(R"({"content":"b"})"));
  EXPECT_THAT(part.body, HasSubstr(R"(data: {"error":{"message":"broken")"));
  EXPECT_THAT(part.body, Not(HasSubstr("[DONE]")));
}

TEST_F(OpenAiReplyTest, StreamSaysThatItLives) {
  const auto reply = Make(/*stream=*/true, 1);
  HttpPart part = reply->Take(/*waited_long=*/true);
  EXPECT_EQ(part.head->status, 200);
  EXPECT_EQ(part.body, ": ping\n\n");
  part = reply->Take(true);
  EXPECT_FALSE(part.head.has_value());
  EXPECT_EQ(part.body, ": ping\n\n");
}

TEST_F(OpenAiReplyTest, WhoeverLetsGoCancels) {
  auto reply = Make(/*stream=*/true, 2);
  reply.reset();
  EXPECT_TRUE(generations_[0].cancelled->load());
  EXPECT_TRUE(generations_[1].cancelled->load());
  generations_[0].send(Text("late"));  // nobody is there any more
  generations_[0].finish(absl::CancelledError("left"));
}

TEST_F(OpenAiReplyTest, AStreamThatNobodyReadsIsGivenUp) {
  const auto reply = Make(/*stream=*/true, 1);
  const std::string much(1 << 20, 'x');
  for (int i = 0; i < 9; ++i) {
    EXPECT_FALSE(generations_[0].cancelled->load());
    generations_[0].send(Text(much));
  }
  EXPECT_TRUE(generations_[0].cancelled->load());
  EXPECT_EQ(reply->Take(false).head->status, 429);
}

}  // namespace
}  // namespace tandem::coordinator
