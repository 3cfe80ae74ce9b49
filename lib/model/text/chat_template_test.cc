// Limits and errors of chat templates; tests/golden/text compares their output with jinja2.
#include "lib/model/text/chat_template.h"

#include <ctime>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/model/text/chat_message.h"

namespace tandem {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<std::string> Render(const std::string& source, ChatTemplateOptions options = {}) {
  absl::StatusOr<ChatTemplate> made = ChatTemplate::Parse(source);
  if (!made.ok()) return made.status();
  return made->Render(ToJson({{"system", "S"}, {"user", "U"}}), options);
}

std::string ErrorOf(const std::string& source) {
  const auto text = Render(source);
  return text.ok() ? "no error but '" + *text + "'" : std::string(text.status().message());
}

TEST(ChatTemplate, RendersMessagesAndVariables) {
  ChatTemplateOptions options;
  options.bos_token = "<b>";
  options.extra = {{"thinking", true}};
  EXPECT_EQ(*Render("{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor "
                    "%}{{ thinking }}{{ tools }}"
                    "{{ eos_token is defined }}{{ add_generation_prompt }}",
                    options),
            "<b>system:S;user:U;TrueNoneFalseTrue");
}

TEST(ChatTemplate, KeepsTheOrderOfKeys) {
  ChatTemplateOptions options;
  options.tools = nlohmann::ordered_json::parse(R"([{"z": 1, "a": 2}])");
  EXPECT_EQ(*Render("{{ tools | tojson }}", options), R"([{"z": 1, "a": 2}])");
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  EXPECT_THAT(ErrorOf("a\nb {{ x.y }}"), HasSubstr("line 2: 'x' is undefined"));
  EXPECT_THAT(ErrorOf("\n\n{% if %}"), HasSubstr("line 3"));
  EXPECT_THAT(ErrorOf("{{ raise_exception('roles must alternate') }}"),
              HasSubstr("roles must alternate"));
  EXPECT_THAT(ErrorOf("{{ strftime_now('%d') }}"), HasSubstr("strftime_now is not supported"));
  EXPECT_THAT(ErrorOf("{% include 'x' %}"), HasSubstr("tag 'include'"));
  EXPECT_THAT(ErrorOf("{{ 'ö' | upper }}"), HasSubstr("ASCII"));
  EXPECT_THAT(ErrorOf("{{ messages.append(1) }}"), HasSubstr("would modify"));
  EXPECT_FALSE(ChatTemplate::Parse("\xff").ok());
}

TEST(ChatTemplate, RefusesInputThatIsNoConversation) {
  const auto t = ChatTemplate::Parse("x");
  ASSERT_TRUE(t.ok());
  EXPECT_FALSE(t->Render("text", {}).ok());
  nlohmann::ordered_json bad = nlohmann::ordered_json::array();
  bad.push_back({{"content", "\xff"}});
  EXPECT_FALSE(t->Render(bad, {}).ok());
  nlohmann::ordered_json deep = nlohmann::ordered_json::array();
  for (int i = 0; i < 1000; ++i) deep = nlohmann::ordered_json::array({deep});
  EXPECT_FALSE(t->Render(deep, {}).ok());
}

std::string Repeat(const std::string& s, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += s;
  return out;
}

// Each of these would take all time, memory or stack without the limits.
TEST(ChatTemplate, HostileTemplatesEndWithAnError) {
  const std::string hostile[] = {
      "{{ " + Repeat("(", 100000) + "1" + Repeat(")", 100000) + " }}",
      "{{ " + Repeat("-", 100000) + "1 }}",
      "{{ " + Repeat("not ", 100000) + "1 }}",
      "{{ 1" + Repeat(" + 1", 100000) + " }}",
      "{{ a" + Repeat(".b", 100000) + " }}",
      "{{ a" + Repeat("|list", 100000) + " }}",
      Repeat("{% if 1 %}", 10000) + Repeat("{% endif %}", 10000),
      Repeat("{% for a in b %}", 10000),
      "{{ 1" + Repeat(" if 1 else 1", 10000) + " }}",
      "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
      "{% set s = 'aaaaaaaa' %}" + Repeat("{% set s = s ~ s %}", 60) + "{{ s }}",
      "{% set l = [1] %}" + Repeat("{% set l = l + l %}", 60) + "{{ l }}",
      "{% set l = [1] %}" + Repeat("{% set l = [l, l] %}", 60) + "{{ l }}",
      "{% set l = [1] %}{% set m = [1] %}" +
          Repeat("{% set l = [l, l] %}{% set m = [m, m] %}", 60) + "{{ l == m }}",
      "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor "
      "%}{{ ns.l }}",
      "{% set ns = namespace() %}{% set ns.ns = ns %}",
      "{% set ns = namespace() %}{% set ns.l = [ns] %}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
      "{{ 'a' * 1000000000000 }}",
      "{{ [1] * 1000000000000 }}",
      "{{ range(1000000000) }}",
      "{% for i in range(100000) %}{{ 'x' * 10000 }}{% endfor %}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ (0 - 9223372036854775807 - 1) // -1 }}",
      "{{ 2 ** 64 }}",
      "{{ ('a,' * 1000000).split(',') | join('b' * 1000) }}",
      "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
      "{{ [[1]] | tojson(indent=100000000) }}",
      "{{ 99999999999999999999 }}",
  };
  for (const std::string& source : hostile) {
    const std::clock_t start = std::clock();  // CPU time: the machine may be busy
    EXPECT_FALSE(Render(source).ok()) << source.substr(0, 100);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_LT(seconds, 60) << source.substr(0, 100);  // a second or two; sanitizers take longer
  }
}

}  // namespace
}  // namespace tandem
