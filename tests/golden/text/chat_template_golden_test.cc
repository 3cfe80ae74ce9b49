// Chat templates against jinja2: the templates of the served models over twelve conversations, and
// one template per feature of the language.
#include <chrono>
#include <filesystem>
#include <string>

#include "gtest/gtest.h"
#include "lib/model/text/chat_template.h"
#include "nlohmann/json.hpp"
#include "tests/golden/text/golden_files.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

std::string V3ConfigPath() {
  return golden::DataPath("tokenizer_deepseek_v3/tokenizer_config.json");
}

const Json& Goldens() {
  static const Json json = Json::parse(golden::ReadFile(golden::GoldenPath("templates.json")));
  return json;
}

void ExpectCase(const Json& c, const std::string& source, const Json& messages,
                const ChatTemplateOptions& options) {
  SCOPED_TRACE(c.value("conversation", "") + " " + source.substr(0, 400));
  const absl::StatusOr<ChatTemplate> made = ChatTemplate::Parse(source);
  const absl::StatusOr<std::string> text =
      made.ok() ? made->Render(messages, options) : made.status();
  if (c["expected"].is_null()) {
    EXPECT_FALSE(text.ok()) << "jinja2 fails here, this wrote: " << *text;
    return;
  }
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, c["expected"].get<std::string>());
}

TEST(ChatTemplateGolden, ConversationsRenderAsJinja2) {
  const bool has_v3 = std::filesystem::exists(V3ConfigPath());
  const std::string v3 =
      has_v3 ? Json::parse(golden::ReadFile(V3ConfigPath()))["chat_template"].get<std::string>()
             : "";
  int rendered = 0, refused = 0;
  for (const Json& c : Goldens()["cases"]) {
    if (!c.contains("template")) continue;
    const std::string name = c["template"];
    if (name == "@deepseek_v3" && !has_v3) continue;
    Json context = Goldens()["base"];
    context.update(Goldens()["variants"][c["variant"].get<size_t>()]);
    const Json& messages = Goldens()["conversations"][c["conversation"].get<std::string>()];
    ChatTemplateOptions options;
    options.add_generation_prompt = context["add_generation_prompt"];
    options.bos_token = context["bos_token"];
    options.eos_token = context["eos_token"];
    options.tools = context["tools"];
    if (context.contains("thinking")) options.extra["thinking"] = context["thinking"];
    ExpectCase(c, name == "@deepseek_v3" ? v3 : Goldens()["templates"][name].get<std::string>(),
               messages, options);
    c["expected"].is_null() ? ++refused : ++rendered;
  }
  EXPECT_GE(rendered, 80);
  EXPECT_GE(refused, 3);
  if (!has_v3)
    GTEST_SKIP() << "DeepSeek-V3's template is not at " << V3ConfigPath()
                 << "; the other models' passed";
}

TEST(ChatTemplateGolden, EveryFeatureRendersAsJinja2) {
  int count = 0;
  for (const Json& c : Goldens()["cases"]) {
    if (!c.contains("source")) continue;
    ChatTemplateOptions options;
    options.extra = Goldens()["data"];
    ExpectCase(c, c["source"], Json::array(), options);
    ++count;
  }
  EXPECT_GE(count, 90);
}

}  // namespace
}  // namespace tandem
