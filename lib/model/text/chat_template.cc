#include "lib/model/text/chat_template.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/model/text/jinja_eval.h"
#include "lib/model/text/jinja_parser.h"

namespace tandem {
namespace {

constexpr size_t kSourceBytesMax = 1 << 20;  // the longest known template has 20 KB

absl::Status Put(const std::string& name, const nlohmann::ordered_json& json, text::Dict* context) {
  TANDEM_ASSIGN_OR_RETURN(text::Value value, text::FromJson(json));
  context->Set(text::Value(name), std::move(value));
  return absl::OkStatus();
}

}  // namespace

struct ChatTemplate::Tree {
  text::Block body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<const Tree> tree) : tree_(std::move(tree)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(std::string_view source) {
  if (source.size() > kSourceBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("chat template has ", source.size(),
                                                   " bytes, expected at most ", kSourceBytesMax));
  }
  if (!base::IsValidUtf8(source))
    return absl::InvalidArgumentError("chat template is not valid UTF-8");
  TANDEM_ASSIGN_OR_RETURN(text::Block body, text::ParseTemplate(source));
  auto tree = std::make_unique<Tree>();
  tree->body = std::move(body);
  return ChatTemplate(std::move(tree));
}

absl::StatusOr<std::string> ChatTemplate::Render(const nlohmann::ordered_json& messages,
                                                 const ChatTemplateOptions& options) const {
  if (!messages.is_array()) return absl::InvalidArgumentError("messages: expected a list");
  if (!options.extra.is_object())
    return absl::InvalidArgumentError("template variables: expected an object");
  text::Dict context;
  TANDEM_RETURN_IF_ERROR(Put("messages", messages, &context));
  TANDEM_RETURN_IF_ERROR(Put("tools", options.tools, &context));
  TANDEM_RETURN_IF_ERROR(Put("documents", nullptr, &context));
  TANDEM_RETURN_IF_ERROR(Put("add_generation_prompt", options.add_generation_prompt, &context));
  if (!options.bos_token.empty())
    TANDEM_RETURN_IF_ERROR(Put("bos_token", options.bos_token, &context));
  if (!options.eos_token.empty())
    TANDEM_RETURN_IF_ERROR(Put("eos_token", options.eos_token, &context));
  for (const auto& [name, value] : options.extra.items()) {
    TANDEM_RETURN_IF_ERROR(Put(name, value, &context));
  }
  return text::RenderBlock(tree_->body, context, text::RenderLimits{});
}

}  // namespace tandem
