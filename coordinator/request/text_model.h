// TextModel: what the coordinator knows of a model without its weights: configuration, tokenizer,
// chat template.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/model/config.h"
#include "lib/model/model_weights.h"
#include "lib/model/text/chat_template.h"
#include "lib/model/text/tokenizer.h"
#include "proto/inference.pb.h"

namespace tandem::coordinator {

class TextModel {
 public:
  // `path`: a Hugging Face folder (config.json, tokenizer.json or tiktoken.model) or a GGUF file.
  // Errors name file, expected and found.
  static absl::StatusOr<std::unique_ptr<TextModel>> Load(const std::string& path);
  // The same for a model whose routed experts come from another source, of which only their formats
  // are read.
  static absl::StatusOr<std::unique_ptr<TextModel>> Load(const ModelSources& sources);

  const ModelConfig& config() const { return config_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const std::string& name() const { return name_; }
  // The formats of the routed experts, "q4_K, q6_K"; empty without experts.
  const std::string& expert_formats() const { return expert_formats_; }
  uint32_t vocab_size() const { return static_cast<uint32_t>(config_.vocab_size); }
  std::vector<uint32_t> eos_token_ids() const;

  // The prompt as the template writes it. FAILED_PRECONDITION when the model has no template,
  // INVALID_ARGUMENT for messages or template arguments that do not fit.
  absl::StatusOr<std::string> RenderChat(const inference::v1::ChatPrompt& chat) const;
  // Ids of a rendered template: special tokens are recognized, nothing is added.
  absl::StatusOr<std::vector<uint32_t>> EncodeRendered(const std::string& rendered) const;
  absl::StatusOr<std::vector<uint32_t>> EncodeText(const std::string& text, bool add_bos,
                                                   bool parse_special) const;
  // Any prompt of a request; plain text gets the model's BOS if the model is used to one.
  absl::StatusOr<std::vector<uint32_t>> EncodePrompt(
      const inference::v1::GenerateRequest& request) const;

 private:
  TextModel() = default;

  ModelConfig config_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<ChatTemplate> template_;
  std::string name_;
  std::string expert_formats_;
};

}  // namespace tandem::coordinator
