// Chat templates from outside: whatever the bytes, parsing and rendering end with a text or a
// status.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "lib/base/check.h"
#include "lib/base/text.h"
#include "lib/model/text/jinja_eval.h"
#include "lib/model/text/jinja_parser.h"
#include "nlohmann/json.hpp"

namespace {

const tandem::text::Dict& Context() {
  static const tandem::text::Dict* context = [] {
    const auto json = nlohmann::ordered_json::parse(R"({
      "messages": [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Ü中"},
        {"role": "assistant", "content": null, "tool_calls": [
          {"id": "a:0", "type": "function",
           "function": {"name": "f", "arguments": {"x": [1, 2.5, true]}}}]}],
      "bos_token": "<b>", "eos_token": "<e>", "n": 7, "items": [3, 1, 2],
      "add_generation_prompt": true})");
    const auto value = tandem::text::FromJson(json);
    TANDEM_CHECK(value.ok());
    return new tandem::text::Dict(value->dict());
  }();
  return *context;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  if (!tandem::base::IsValidUtf8(source)) return 0;  // ChatTemplate::Parse refuses it first
  const auto body = tandem::text::ParseTemplate(source);
  if (!body.ok()) return 0;
  // Smaller limits than in service, so that one input takes milliseconds.
  const tandem::text::RenderLimits limits{.output_bytes_max = 1 << 16, .steps_max = 200000};
  const auto text = tandem::text::RenderBlock(*body, Context(), limits);
  if (text.ok()) {
    TANDEM_CHECK_LE(text->size(), limits.output_bytes_max);
    TANDEM_CHECK(tandem::base::IsValidUtf8(*text));
  }
  return 0;
}
