#include "coordinator/api/openai_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "coordinator/api/openai_defaults.h"

namespace tandem::coordinator {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kMessages[] = R"("messages": [{"role": "user", "content": "hello"}])";

OpenAiCall Completion(const std::string& fields, const SamplingDefaults& defaults = {}) {
  auto parsed = ParseCompletionCall("{" + fields + "}", defaults);
  if (const auto* error = std::get_if<ApiError>(&parsed)) {
    ADD_FAILURE() << error->message;
    return {};
  }
  return std::get<OpenAiCall>(parsed);
}

OpenAiCall Chat(const std::string& fields) {
  auto parsed = ParseChatCall("{" + fields + "}", {});
  if (const auto* error = std::get_if<ApiError>(&parsed)) {
    ADD_FAILURE() << error->message;
    return {};
  }
  return std::get<OpenAiCall>(parsed);
}

ApiError Refusal(const std::variant<OpenAiCall, ApiError>& parsed) {
  if (std::holds_alternative<ApiError>(parsed)) return std::get<ApiError>(parsed);
  ADD_FAILURE() << "expected a refusal";
  return {};
}
ApiError CompletionRefusal(const std::string& fields) {
  return Refusal(ParseCompletionCall("{" + fields + "}", {}));
}
ApiError ChatRefusal(const std::string& fields) {
  return Refusal(ParseChatCall("{" + fields + "}", {}));
}

TEST(OpenAiRequest, CompletionDefaultsAreOpenAis) {
  const OpenAiCall call = Completion(R"("prompt": "a")");
  EXPECT_FALSE(call.chat);
  EXPECT_EQ(call.model, "");
  EXPECT_FALSE(call.stream);
  EXPECT_FALSE(call.echo);
  EXPECT_FALSE(call.logprobs);
  EXPECT_FALSE(call.seed);
  EXPECT_EQ(call.choices(), 1u);
  EXPECT_EQ(call.prompts[0].text(), "a");
  EXPECT_EQ(call.options.max_tokens(), 16u);
  EXPECT_EQ(call.options.sampling().temperature(), 1);
  EXPECT_EQ(call.options.sampling().top_p(), 1);
  EXPECT_EQ(call.options.sampling().top_k(), 0u);
  EXPECT_EQ(call.options.prompt_logprobs_plus1(), 0u);
}

TEST(OpenAiRequest, ModelDefaultsHoldWhereNothingIsSaid) {
  const SamplingDefaults defaults = {
      .temperature = 0.6f, .top_p = 0.95f, .top_k = 20, .min_p = 0.1f, .repetition_penalty = 1.1f};
  const auto sampling = Completion(R"("prompt": "a")", defaults).options.sampling();
  EXPECT_EQ(sampling.temperature(), 0.6f);
  EXPECT_EQ(sampling.top_p(), 0.95f);
  EXPECT_EQ(sampling.top_k(), 20u);
  EXPECT_EQ(sampling.min_p(), 0.1f);
  EXPECT_EQ(sampling.repetition_penalty(), 1.1f);
  const auto own = Completion(R"("prompt": "a", "temperature": 0, "top_k": -1)", defaults);
  EXPECT_EQ(own.options.sampling().temperature(), 0);
  EXPECT_EQ(own.options.sampling().top_k(), 0u);
}

TEST(OpenAiRequest, EveryFormOfPrompt) {
  EXPECT_EQ(Completion(R"("prompt": ["a", "b"])").prompts[1].text(), "b");
  const OpenAiCall ids = Completion(R"("prompt": [1, 2.0, 3])");
  ASSERT_EQ(ids.prompts.size(), 1u);
  EXPECT_THAT(ids.prompts[0].tokens().ids(), ElementsAre(1, 2, 3));
  const OpenAiCall lists = Completion(R"("prompt": [[1, 2], [3]])");
  ASSERT_EQ(lists.prompts.size(), 2u);
  EXPECT_THAT(lists.prompts[0].tokens().ids(), ElementsAre(1, 2));
  EXPECT_THAT(lists.prompts[1].tokens().ids(), ElementsAre(3));
  for (const char* wrong : {"[]", "{}", "true", "7", "[1, \"a\"]", "[\"a\", 1]", "[[1], \"a\"]",
                            "[1, 1.5]", "[1, -1]", "[1, 4294967296]", "[[1], [true]]", "[null]"}) {
    EXPECT_EQ(CompletionRefusal(absl::StrCat("\"prompt\": ", wrong)).param, "prompt") << wrong;
  }
  EXPECT_THAT(CompletionRefusal("").message, HasSubstr("'prompt'"));
  EXPECT_EQ(CompletionRefusal("\"prompt\": null").code, "missing_required_parameter");
}

TEST(OpenAiRequest, EverySamplingField) {
  const OpenAiCall call = Completion(R"("prompt": "a", "model": "m", "temperature": 0.5,
      "top_p": 0.25, "top_k": 7, "min_p": 0.125, "repetition_penalty": 1.5,
      "presence_penalty": -2, "frequency_penalty": 2, "seed": -1, "ignore_eos": true,
      "stop": ["x", "y"], "stop_token_ids": [4], "logit_bias": {"5": -100, "6": 1.5},
      "max_tokens": 3, "stream": true, "stream_options": {"include_usage": true}, "n": 2,
      "user": "ignored", "some_new_field": {"a": [1]})"
                                     R"(, "best_of": 2)");
  const auto& sampling = call.options.sampling();
  EXPECT_EQ(call.model, "m");
  EXPECT_EQ(sampling.temperature(), 0.5f);
  EXPECT_EQ(sampling.top_p(), 0.25f);
  EXPECT_EQ(sampling.top_k(), 7u);
  EXPECT_EQ(sampling.min_p(), 0.125f);
  EXPECT_EQ(sampling.repetition_penalty(), 1.5f);
  EXPECT_EQ(sampling.presence_penalty(), -2);
  EXPECT_EQ(sampling.frequency_penalty(), 2);
  EXPECT_TRUE(sampling.ignore_stop_tokens());
  EXPECT_EQ(call.seed, UINT64_MAX);
  EXPECT_THAT(call.options.stop(), ElementsAre("x", "y"));
  EXPECT_THAT(sampling.stop_token_ids(), ElementsAre(4));
  EXPECT_EQ(sampling.logit_bias().at(5), -100);
  EXPECT_EQ(sampling.logit_bias().at(6), 1.5f);
  EXPECT_EQ(call.options.max_tokens(), 3u);
  EXPECT_TRUE(call.stream);
  EXPECT_TRUE(call.include_usage);
  EXPECT_EQ(call.choices(), 2u);
  EXPECT_THAT(Completion(R"("prompt": "a", "stop": "one")").options.stop(), ElementsAre("one"));
}

TEST(OpenAiRequest, TopPZeroIsTheBestTokenNotAllTokens) {
  EXPECT_GT(Completion(R"("prompt": "a", "top_p": 0)").options.sampling().top_p(), 0);
  EXPECT_LT(Completion(R"("prompt": "a", "top_p": 0)").options.sampling().top_p(), 1e-6);
}

TEST(OpenAiRequest, WrongValuesNameTheirField) {
  const std::pair<const char*, const char*> cases[] = {{"temperature", "2.5"},
                                                       {"temperature", "-1"},
                                                       {"temperature", "\"hot\""},
                                                       {"top_p", "1.5"},
                                                       {"top_k", "-2"},
                                                       {"top_k", "1.5"},
                                                       {"min_p", "2"},
                                                       {"presence_penalty", "3"},
                                                       {"frequency_penalty", "-2.1"},
                                                       {"repetition_penalty", "0"},
                                                       {"n", "0"},
                                                       {"n", "257"},
                                                       {"max_tokens", "-1"},
                                                       {"max_tokens", "\"16\""},
                                                       {"logprobs", "-1"},
                                                       {"logprobs", "true"},
                                                       {"logprobs", "257"},
                                                       {"stop", "7"},
                                                       {"stop", "[7]"},
                                                       {"seed", "1.5"},
                                                       {"seed", "1e40"},
                                                       {"logit_bias", "[]"},
                                                       {"logit_bias", "{\"a\":1}"},
                                                       {"logit_bias", "{\"1\":101}"},
                                                       {"logit_bias", "{\"-1\":1}"},
                                                       {"stream", "1"},
                                                       {"echo", "\"yes\""},
                                                       {"stream_options", "{}"},
                                                       {"model", "7"},
                                                       {"stop_token_ids", "[-1]"},
                                                       {"stop_token_ids", "3"},
                                                       {"best_of", "2"},
                                                       {"suffix", "\"x\""}};
  for (const auto& [field, value] : cases) {
    const ApiError error =
        CompletionRefusal(absl::StrCat("\"prompt\": \"a\", \"", field, "\": ", value));
    EXPECT_EQ(error.param, field) << value;
    EXPECT_EQ(error.status, 400) << field;
    EXPECT_EQ(error.type, "invalid_request_error");
    EXPECT_THAT(error.message, HasSubstr(field));
  }
}

TEST(OpenAiRequest, NullIsAbsent) {
  const OpenAiCall call = Completion(R"("prompt": "a", "temperature": null, "stop": null, "n": null,
      "logprobs": null, "logit_bias": null, "seed": null, "stream": null, "stream_options": null,
      "suffix": null, "best_of": null, "max_tokens": null, "model": null)");
  EXPECT_EQ(call.options.max_tokens(), 16u);
  EXPECT_FALSE(call.logprobs);
  EXPECT_FALSE(call.seed);
}

TEST(OpenAiRequest, EchoWithLogprobsAsksForThePrompts) {
  const OpenAiCall call =
      Completion(R"("prompt": [[1, 2]], "echo": true, "logprobs": 3, "max_tokens": 0)");
  EXPECT_TRUE(call.echo);
  EXPECT_EQ(call.options.prompt_logprobs_plus1(), 4u);
  EXPECT_EQ(call.options.sampling().top_logprobs(), 3u);
  EXPECT_TRUE(call.options.sampling().logprobs());
  EXPECT_EQ(call.options.max_tokens(), 0u);
  EXPECT_EQ(Completion(R"("prompt": "a", "echo": true)").options.prompt_logprobs_plus1(), 0u);
  EXPECT_EQ(Completion(R"("prompt": "a", "logprobs": 0)").logprobs, 0u);
}

TEST(OpenAiRequest, ManyPromptsTimesManyAnswersAreBounded) {
  std::string prompts = "\"a\"";
  for (int i = 1; i < 129; ++i) prompts += ",\"a\"";
  const std::string field = absl::StrCat("\"prompt\": [", prompts, "]");
  EXPECT_EQ(Completion(field).choices(), 129u);
  EXPECT_EQ(CompletionRefusal(field + ", \"n\": 2").param, "n");
  EXPECT_EQ(CompletionRefusal(absl::StrCat("\"prompt\": [", prompts, ",", prompts, "]")).param,
            "prompt");
}

TEST(OpenAiRequest, ChatMessages) {
  const OpenAiCall call = Chat(R"("messages": [
      {"role": "developer", "content": "d"},
      {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": null, "tool_calls": []},
      {"role": "tool", "content": "t"}], "chat_template_kwargs": {"thinking": true})");
  EXPECT_TRUE(call.chat);
  const auto& chat = call.prompts[0].chat();
  ASSERT_EQ(chat.messages_size(), 4);
  EXPECT_EQ(chat.messages(0).role(), "system");
  EXPECT_EQ(chat.messages(1).content(), "ab");
  EXPECT_EQ(chat.messages(2).content(), "");
  EXPECT_EQ(chat.messages(3).role(), "tool");
  EXPECT_EQ(chat.template_args_json(), R"({"thinking":true})");
  EXPECT_EQ(call.options.max_tokens(), static_cast<uint32_t>(INT32_MAX));
}

TEST(OpenAiRequest, ChatTokensAndLogprobs) {
  const std::string messages = std::string(kMessages) + ", ";
  EXPECT_EQ(Chat(messages + R"("max_tokens": 5)").options.max_tokens(), 5u);
  EXPECT_EQ(Chat(messages + R"("max_tokens": 5, "max_completion_tokens": 6)").options.max_tokens(),
            6u);
  EXPECT_FALSE(Chat(messages + R"("logprobs": false)").logprobs);
  EXPECT_EQ(Chat(messages + R"("logprobs": true)").logprobs, 0u);
  EXPECT_EQ(Chat(messages + R"("logprobs": true, "top_logprobs": 4)").logprobs, 4u);
  EXPECT_EQ(ChatRefusal(messages + R"("top_logprobs": 4)").param, "top_logprobs");
  EXPECT_EQ(ChatRefusal(messages + R"("logprobs": 4)").param, "logprobs");
  EXPECT_EQ(ChatRefusal(messages + R"("max_tokens": 0)").param, "max_tokens");
}

TEST(OpenAiRequest, WrongMessages) {
  for (const char* wrong :
       {"7", "[]", "[7]", "[{}]", R"([{"role": "user", "content": 7}])",
        R"([{"role": "god", "content": "x"}])", R"([{"role": 1, "content": "x"}])",
        R"([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])",
        R"([{"role": "user", "content": ["x"]}])",
        R"([{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}])"}) {
    EXPECT_EQ(ChatRefusal(absl::StrCat("\"messages\": ", wrong)).param, "messages") << wrong;
  }
  EXPECT_EQ(ChatRefusal("").param, "messages");
}

TEST(OpenAiRequest, WhatIsNotOfferedIsRefusedUnlessItAsksForNothing) {
  const std::string messages = std::string(kMessages) + ", ";
  const std::pair<const char*, const char*> refused[] = {
      {"tools", R"([{"type": "function"}])"},
      {"tool_choice", R"("required")"},
      {"response_format", R"({"type": "json_object"})"},
      {"response_format", R"({"type": "json_schema"})"},
      {"functions", "[{}]"},
      {"audio", R"({"voice": "x"})"},
      {"modalities", R"(["text", "audio"])"},
      {"echo", "true"},
      {"min_tokens", "3"},
      {"use_beam_search", "true"},
      {"add_generation_prompt", "false"},
      {"continue_final_message", "true"},
      {"guided_json", "{\"a\": 1}"}};
  for (const auto& [field, value] : refused) {
    const ApiError error = ChatRefusal(absl::StrCat(messages, "\"", field, "\": ", value));
    EXPECT_EQ(error.param, field);
    EXPECT_EQ(error.code, "unsupported_parameter");
  }
  Chat(messages + R"("tools": [], "tool_choice": "none", "response_format": {"type": "text"},
      "functions": null, "min_tokens": 0, "use_beam_search": false, "modalities": ["text"],
      "store": true, "metadata": {"a": "b"}, "reasoning_effort": "high")");
}

TEST(OpenAiRequest, BodiesThatAreNoObjects) {
  for (const char* body : {"", "{", "[]", "7", "null", "{\"a\": \"\xff\"}", "{\"a\": 1} x"}) {
    EXPECT_EQ(Refusal(ParseChatCall(body, {})).status, 400) << body;
  }
  const std::string deep = "{\"a\": " + std::string(100000, '[') + std::string(100000, ']') + "}";
  EXPECT_THAT(Refusal(ParseChatCall(deep, {})).message, HasSubstr("deeper"));
}

TEST(OpenAiRequest, SeedsOfAnswers) {
  const OpenAiCall call = Completion(R"("prompt": ["a", "b"], "n": 3, "seed": 42)");
  ASSERT_EQ(call.choices(), 6u);
  const auto seed = [&call](size_t i) { return RequestOfChoice(call, i, 7).sampling().seed(); };
  EXPECT_EQ(seed(0), 42u);
  EXPECT_EQ(seed(3), 42u);  // as if "b" had been asked alone
  EXPECT_NE(seed(1), seed(0));
  EXPECT_EQ(seed(1), seed(4));
  EXPECT_EQ(RequestOfChoice(call, 2, 7).text(), "a");
  EXPECT_EQ(RequestOfChoice(call, 3, 7).text(), "b");
  const OpenAiCall drawn = Completion(R"("prompt": "a")");
  EXPECT_EQ(RequestOfChoice(drawn, 0, 7).sampling().seed(), 7u);
  EXPECT_EQ(RequestOfChoice(drawn, 0, 7).max_tokens(), 16u);
}

TEST(OpenAiDefaults, GenerationConfig) {
  const auto read = ParseSamplingDefaults(
      R"({"do_sample": true, "temperature": 0.6, "top_p": 0.95, "eos_token_id": [1]})", "f");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->temperature, 0.6f);
  EXPECT_EQ(read->top_p, 0.95f);
  EXPECT_EQ(ParseSamplingDefaults("{}", "f")->temperature, 1);
  EXPECT_EQ(ParseSamplingDefaults(R"({"do_sample": false, "temperature": 1})", "f")->temperature,
            0);
  EXPECT_THAT(
      std::string(ParseSamplingDefaults(R"({"temperature": "warm"})", "f.json").status().message()),
      testing::AllOf(HasSubstr("f.json"), HasSubstr("temperature")));
  EXPECT_FALSE(ParseSamplingDefaults("[", "f").ok());
  EXPECT_EQ(ReadSamplingDefaults("models/quiz")->temperature, 0);
  EXPECT_EQ(ReadSamplingDefaults("models/quiz/gguf/quiz-Q8_0.gguf")->temperature, 1);
}

TEST(OpenAiError, Json) {
  EXPECT_EQ(ErrorJson(BadRequest("no \xff", "p", "c")),
            "{\"error\":{\"message\":\"no \xEF\xBF\xBD\",\"type\":\"invalid_request_error\","
            "\"param\":\"p\",\"code\":\"c\"}}");
  EXPECT_THAT(ErrorJson(BadRequest("x")), HasSubstr(R"("param":null,"code":null)"));
}

TEST(OpenAiError, StatusesBecomeHttp) {
  const auto http = [](const absl::Status& status) { return ErrorOf(status).status; };
  EXPECT_EQ(http(absl::InvalidArgumentError("x")), 400);
  EXPECT_EQ(http(absl::ResourceExhaustedError("x")), 429);
  EXPECT_EQ(http(absl::UnavailableError("x")), 503);
  EXPECT_EQ(http(absl::DeadlineExceededError("x")), 504);
  EXPECT_EQ(http(absl::InternalError("x")), 500);
  const HttpPart full = ErrorPart(ErrorOf(absl::ResourceExhaustedError("x")));
  EXPECT_THAT(full.head->fields,
              ElementsAre(std::pair<std::string, std::string>("Retry-After", "1")));
  EXPECT_EQ(NoSuchModel("m").status, 404);
  EXPECT_THAT(ContextExceeded(5, 4).message, testing::AllOf(HasSubstr("5"), HasSubstr("4")));
}

}  // namespace
}  // namespace tandem::coordinator
