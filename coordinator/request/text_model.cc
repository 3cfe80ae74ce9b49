#include "coordinator/request/text_model.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/model/tensor_source.h"

namespace tandem::coordinator {
namespace {

namespace fs = std::filesystem;

// config.json of a 671B model has a few KiB; far more is no config.
constexpr uintmax_t kConfigBytesMax = 16 << 20;

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::error_code error;
  const uintmax_t size_bytes = fs::file_size(path, error);
  if (error) return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", error.message()));
  if (size_bytes > kConfigBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", size_bytes, " bytes, expected at most ", kConfigBytesMax));
  }
  std::ifstream file(path, std::ios::binary);
  return std::string{std::istreambuf_iterator<char>(file), {}};
}

// The text of GGUF's optional fields; a field of the wrong type counts as absent only where the
// file format calls it optional.
template <typename T>
absl::Status Optional(const Metadata& metadata, const char* key,
                      absl::StatusOr<T> (Metadata::*get)(std::string_view) const, T* out) {
  if (!metadata.Has(key)) return absl::OkStatus();
  TANDEM_ASSIGN_OR_RETURN(*out, (metadata.*get)(key));
  return absl::OkStatus();
}

absl::StatusOr<TokenizerFields> FieldsOf(const Metadata& metadata, const std::string& file) {
  TokenizerFields fields;
  fields.source = file;
  TANDEM_ASSIGN_OR_RETURN(fields.model, metadata.GetString("tokenizer.ggml.model"));
  TANDEM_ASSIGN_OR_RETURN(fields.tokens, metadata.GetStrings("tokenizer.ggml.tokens"));
  TANDEM_RETURN_IF_ERROR(
      Optional(metadata, "tokenizer.ggml.pre", &Metadata::GetString, &fields.pre));
  TANDEM_RETURN_IF_ERROR(
      Optional(metadata, "tokenizer.ggml.merges", &Metadata::GetStrings, &fields.merges));
  TANDEM_RETURN_IF_ERROR(
      Optional(metadata, "tokenizer.ggml.add_bos_token", &Metadata::GetBool, &fields.add_bos));
  TANDEM_RETURN_IF_ERROR(
      Optional(metadata, "tokenizer.chat_template", &Metadata::GetString, &fields.chat_template));
  std::vector<int64_t> types;
  TANDEM_RETURN_IF_ERROR(
      Optional(metadata, "tokenizer.ggml.token_type", &Metadata::GetInts, &types));
  fields.token_types.assign(types.begin(), types.end());
  int64_t bos = -1, eos = -1, pad = -1;
  TANDEM_RETURN_IF_ERROR(
      Optional(metadata, "tokenizer.ggml.bos_token_id", &Metadata::GetInt, &bos));
  TANDEM_RETURN_IF_ERROR(
      Optional(metadata, "tokenizer.ggml.eos_token_id", &Metadata::GetInt, &eos));
  TANDEM_RETURN_IF_ERROR(
      Optional(metadata, "tokenizer.ggml.padding_token_id", &Metadata::GetInt, &pad));
  fields.bos_id = static_cast<int32_t>(bos);
  fields.eos_id = static_cast<int32_t>(eos);
  fields.pad_id = static_cast<int32_t>(pad);
  return fields;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerOfFolder(const fs::path& folder) {
  if (fs::exists(folder / "tokenizer.json"))
    return Tokenizer::FromTokenizerJson(folder / "tokenizer.json");
  if (fs::exists(folder / "tiktoken.model"))
    return Tokenizer::FromTiktokenModel(folder / "tiktoken.model");
  return absl::NotFoundError(absl::StrCat("expected tokenizer.json or tiktoken.model in ",
                                          folder.string(), ", found neither"));
}

// Names of the types of the routed experts' tensors: ".ffn_gate_exps." in GGUF, ".mlp.experts.7."
// in safetensors.
std::string ExpertFormats(const TensorSource& source) {
  std::set<std::string> formats;
  for (const TensorView& tensor : source.tensors()) {
    const bool of_expert =
        absl::StrContains(tensor.name, "_exps.") || absl::StrContains(tensor.name, ".experts.");
    const bool is_weight = absl::EndsWith(tensor.name, "weight");
    if (of_expert && is_weight) formats.insert(NameOf(tensor.dtype));
  }
  return absl::StrJoin(formats, ", ");
}

std::string BaseName(const std::string& path) {
  const fs::path p = fs::path(path).lexically_normal();
  return p.has_filename() ? p.filename() : p.parent_path().filename();
}

std::vector<uint32_t> ToUnsigned(const std::vector<int32_t>& ids) {
  return {ids.begin(), ids.end()};
}

}  // namespace

absl::StatusOr<std::unique_ptr<TextModel>> TextModel::Load(const std::string& path) {
  std::unique_ptr<TextModel> model(new TextModel);
  TANDEM_ASSIGN_OR_RETURN(std::shared_ptr<const TensorSource> source, TensorSource::Open(path));
  if (source->kind() == ContainerKind::kGguf) {
    const bool has_bias = std::any_of(
        source->tensors().begin(), source->tensors().end(),
        [](const TensorView& tensor) { return absl::StrContains(tensor.name, "exp_probs_b"); });
    TANDEM_ASSIGN_OR_RETURN(model->config_, ParseGgufConfig(source->metadata(), has_bias,
                                                            OldFileRouting::kAssume, path));
    TANDEM_ASSIGN_OR_RETURN(const TokenizerFields fields, FieldsOf(source->metadata(), path));
    TANDEM_ASSIGN_OR_RETURN(model->tokenizer_, Tokenizer::FromGgufFields(fields));
  } else {
    const fs::path folder = fs::is_directory(path) ? fs::path(path) : fs::path(path).parent_path();
    TANDEM_ASSIGN_OR_RETURN(const std::string config, ReadText(folder / "config.json"));
    TANDEM_ASSIGN_OR_RETURN(model->config_, ParseHfConfig(config, folder / "config.json"));
    TANDEM_ASSIGN_OR_RETURN(model->tokenizer_, TokenizerOfFolder(folder));
  }
  TANDEM_RETURN_IF_ERROR(ValidateConfig(model->config_, path));
  for (const std::string& assumption : model->config_.assumptions)
    base::LogWarning("model_assumption", {{"text", assumption}});
  model->name_ = model->config_.name.empty() ? BaseName(path) : model->config_.name;
  model->expert_formats_ = ExpertFormats(*source);
  if (!model->tokenizer_->chat_template().empty()) {
    absl::StatusOr<ChatTemplate> parsed = ChatTemplate::Parse(model->tokenizer_->chat_template());
    if (!parsed.ok()) {
      return absl::Status(parsed.status().code(),
                          absl::StrCat("chat template of ", path, ": ", parsed.status().message()));
    }
    model->template_ = *std::move(parsed);
  }
  return model;
}

absl::StatusOr<std::unique_ptr<TextModel>> TextModel::Load(const ModelSources& sources) {
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<TextModel> model, Load(sources.dense));
  if (sources.experts == sources.dense) return model;
  TANDEM_ASSIGN_OR_RETURN(const auto experts, TensorSource::Open(sources.experts));
  model->expert_formats_ = ExpertFormats(*experts);
  return model;
}

std::vector<uint32_t> TextModel::eos_token_ids() const {
  std::set<uint32_t> ids;
  for (const int64_t id : config_.eos_token_ids) {
    if (id >= 0 && id < config_.vocab_size) ids.insert(static_cast<uint32_t>(id));
  }
  if (tokenizer_->eos_id() >= 0) ids.insert(static_cast<uint32_t>(tokenizer_->eos_id()));
  return {ids.begin(), ids.end()};
}

absl::StatusOr<std::string> TextModel::RenderChat(const inference::v1::ChatPrompt& chat) const {
  if (!template_) {
    return absl::FailedPreconditionError(
        absl::StrCat("model ", name_, " has no chat template; send text or tokens instead"));
  }
  if (chat.messages().empty())
    return absl::InvalidArgumentError("expected at least 1 chat message, found 0");
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  for (const inference::v1::ChatMessage& message : chat.messages()) {
    messages.push_back({{"role", message.role()}, {"content", message.content()}});
  }
  ChatTemplateOptions options;
  const auto piece = [this](int32_t id) {
    const absl::StatusOr<std::string_view> found = tokenizer_->IdToPiece(id);
    return found.ok() ? std::string(*found) : std::string();
  };
  options.bos_token = piece(tokenizer_->bos_id());
  options.eos_token = piece(tokenizer_->eos_id());
  if (!chat.template_args_json().empty()) {
    options.extra = nlohmann::ordered_json::parse(chat.template_args_json(), nullptr,
                                                  /*allow_exceptions=*/false);
    if (!options.extra.is_object()) {
      return absl::InvalidArgumentError(
          "expected template_args_json to be a JSON object, found something else");
    }
  }
  return template_->Render(messages, options);
}

absl::StatusOr<std::vector<uint32_t>> TextModel::EncodeRendered(const std::string& rendered) const {
  return EncodeText(rendered, /*add_bos=*/false, /*parse_special=*/true);
}

absl::StatusOr<std::vector<uint32_t>> TextModel::EncodeText(const std::string& text, bool add_bos,
                                                            bool parse_special) const {
  EncodeOptions options;
  options.add_bos = add_bos;
  options.parse_special = parse_special;
  TANDEM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer_->Encode(text, options));
  return ToUnsigned(ids);
}

absl::StatusOr<std::vector<uint32_t>> TextModel::EncodePrompt(
    const inference::v1::GenerateRequest& request) const {
  using inference::v1::GenerateRequest;
  switch (request.prompt_case()) {
    case GenerateRequest::kChat: {
      TANDEM_ASSIGN_OR_RETURN(const std::string rendered, RenderChat(request.chat()));
      return EncodeRendered(rendered);
    }
    case GenerateRequest::kText:
      return EncodeText(request.text(),
                        tokenizer_->adds_bos_by_default() && tokenizer_->bos_id() >= 0,
                        /*parse_special=*/true);
    case GenerateRequest::kTokens:
      return std::vector<uint32_t>(request.tokens().ids().begin(), request.tokens().ids().end());
    default:
      return absl::InvalidArgumentError("expected a prompt (chat, text or tokens), found none");
  }
}

}  // namespace tandem::coordinator
