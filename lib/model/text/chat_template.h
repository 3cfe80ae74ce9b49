// Renders a conversation into the prompt a model was trained on, by the Jinja template that comes
// with the model, with the output of transformers' apply_chat_template (trim_blocks, lstrip_blocks,
// an immutable sandbox, JSON without HTML escapes). Templates and messages come from outside: time,
// memory and output are bounded, and whatever is not supported is refused by name.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tandem {

struct ChatTemplateOptions {
  bool add_generation_prompt = true;
  std::string bos_token;  // texts, not ids; empty leaves the name undefined
  std::string eos_token;
  // Further variables of the template, such as {"enable_thinking": true} or {"thinking": true}; an
  // object. Wins over the names above.
  nlohmann::ordered_json extra = nlohmann::ordered_json::object();
  // A list of tool schemas; null is none, as transformers passes it.
  nlohmann::ordered_json tools = nullptr;
};

// Immutable, hence thread-safe.
class ChatTemplate {
 public:
  // InvalidArgument, with the line, when `source` does not parse, uses what is not supported or
  // exceeds 1 MiB.
  static absl::StatusOr<ChatTemplate> Parse(std::string_view source);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // `messages` is a list of objects (role, content, and what the template wants). Key order is
  // kept, as tojson shows it: pass ordered_json where that matters; nlohmann::json converts, sorted
  // by key. InvalidArgument when the template raises an exception, fails, or the input is no list;
  // ResourceExhausted at a limit of RenderLimits (jinja_eval.h).
  absl::StatusOr<std::string> Render(const nlohmann::ordered_json& messages,
                                     const ChatTemplateOptions& options) const;

 private:
  struct Tree;
  explicit ChatTemplate(std::unique_ptr<const Tree> tree);
  std::unique_ptr<const Tree> tree_;
};

}  // namespace tandem
