#include "eval_client/report/manifest.h"

#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "lib/base/mapped_file.h"
#include "lib/base/status_macros.h"
#include "lib/base/text_file.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

using Json = nlohmann::ordered_json;

Json ModelToJson(const inference::v1::ModelInfo& model) {
  return {{"name", model.name()},
          {"type", model.model_type()},
          {"digest", model.digest()},
          {"expert_formats", model.expert_formats()},
          {"precision", model.precision()},
          {"attention", model.attention()},
          {"linear_formats", model.linear_formats()},
          {"backend", model.backend()},
          {"recipe", model.recipe()},
          {"recipe_digest", model.recipe_digest()},
          {"context_tokens", model.context_tokens()},
          {"vocab_size", model.vocab_size()},
          {"cpu_workers", model.cpu_workers_ready()},
          {"gpu_workers", model.gpu_workers_ready()},
          {"server_version", model.version()}};
}

inference::v1::ModelInfo ModelFromJson(const Json& json) {
  inference::v1::ModelInfo model;
  model.set_name(json.at("name").get<std::string>());
  model.set_model_type(json.at("type").get<std::string>());
  model.set_digest(json.at("digest").get<std::string>());
  model.set_expert_formats(json.at("expert_formats").get<std::string>());
  model.set_precision(json.at("precision").get<std::string>());
  model.set_attention(json.at("attention").get<std::string>());
  // Not in manifests of before there were recipes.
  model.set_linear_formats(json.value("linear_formats", std::string()));
  model.set_backend(json.value("backend", std::string()));
  model.set_recipe(json.value("recipe", std::string()));
  model.set_recipe_digest(json.value("recipe_digest", std::string()));
  model.set_context_tokens(json.at("context_tokens").get<uint32_t>());
  model.set_vocab_size(json.at("vocab_size").get<uint32_t>());
  model.set_cpu_workers_ready(json.at("cpu_workers").get<uint32_t>());
  model.set_gpu_workers_ready(json.at("gpu_workers").get<uint32_t>());
  model.set_version(json.at("server_version").get<std::string>());
  return model;
}

Json SessionToJson(const Session& session) {
  return {{"command_line", session.command_line},
          {"started", session.started},
          {"ended", session.ended},
          {"outcome", session.outcome},
          {"asked", session.asked},
          {"prompt_tokens", session.prompt_tokens},
          {"completion_tokens", session.completion_tokens},
          {"wall_s", session.wall_s}};
}

Session SessionFromJson(const Json& json) {
  Session session;
  json.at("command_line").get_to(session.command_line);
  json.at("started").get_to(session.started);
  json.at("ended").get_to(session.ended);
  json.at("outcome").get_to(session.outcome);
  json.at("asked").get_to(session.asked);
  json.at("prompt_tokens").get_to(session.prompt_tokens);
  json.at("completion_tokens").get_to(session.completion_tokens);
  json.at("wall_s").get_to(session.wall_s);
  return session;
}

Manifest FromJson(const Json& json) {
  Manifest manifest;
  json.at("tool_version").get_to(manifest.tool_version);
  json.at("suite").get_to(manifest.suite);
  // Not in manifests of before there was a choice.
  manifest.variant = json.value("variant", std::string());
  manifest.shots = json.value("shots", int64_t{-1});
  manifest.samples = json.value("samples", int64_t{1});
  json.at("data_path").get_to(manifest.data_path);
  json.at("data_sha256").get_to(manifest.data_sha256);
  json.at("prompts_sha256").get_to(manifest.prompts_sha256);
  json.at("questions").get_to(manifest.questions);
  json.at("headline_parser").get_to(manifest.headline_parser);
  json.at("endpoint").get_to(manifest.endpoint);
  manifest.model = ModelFromJson(json.at("model"));
  json.at("sampling").at("temperature").get_to(manifest.temperature);
  json.at("sampling").at("max_tokens").get_to(manifest.max_tokens);
  json.at("sampling").at("seed").get_to(manifest.seed);
  json.at("concurrency").get_to(manifest.concurrency);
  json.at("host").at("cpu").get_to(manifest.host_cpu);
  json.at("host").at("cores").get_to(manifest.host_cores);
  for (const Json& session : json.at("sessions")) {
    manifest.sessions.push_back(SessionFromJson(session));
  }
  return manifest;
}

// "the seed" 7 8 -> a sentence when they differ.
template <typename T>
absl::Status Same(const char* what, const T& earlier, const T& now) {
  if (earlier == now) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("expected ", what, " of the earlier run, ", earlier, ", found ", now));
}

// The same for what a server may not have said yet.
absl::Status SameIfKnown(const char* what, const std::string& earlier, const std::string& now) {
  return earlier.empty() || now.empty() ? absl::OkStatus() : Same(what, earlier, now);
}

}  // namespace

std::string ManifestToJson(const Manifest& manifest) {
  Json sessions = Json::array();
  for (const Session& session : manifest.sessions) sessions.push_back(SessionToJson(session));
  const Json json = {{"tool_version", manifest.tool_version},
                     {"suite", manifest.suite},
                     {"variant", manifest.variant},
                     {"shots", manifest.shots},
                     {"samples", manifest.samples},
                     {"data_path", manifest.data_path},
                     {"data_sha256", manifest.data_sha256},
                     {"prompts_sha256", manifest.prompts_sha256},
                     {"questions", manifest.questions},
                     {"headline_parser", manifest.headline_parser},
                     {"endpoint", manifest.endpoint},
                     {"model", ModelToJson(manifest.model)},
                     {"sampling",
                      {{"temperature", manifest.temperature},
                       {"max_tokens", manifest.max_tokens},
                       {"seed", manifest.seed}}},
                     {"concurrency", manifest.concurrency},
                     {"host", {{"cpu", manifest.host_cpu}, {"cores", manifest.host_cores}}},
                     {"sessions", sessions}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<Manifest> ManifestFromJson(const std::string& text) {
  try {
    return FromJson(Json::parse(text));
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("not a run manifest: ", error.what()));
  }
}

absl::Status WriteManifest(const std::string& path, const Manifest& manifest) {
  return base::ReplaceFile(path, ManifestToJson(manifest));
}

absl::StatusOr<Manifest> ReadManifest(const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(base::MappedFile file, base::MappedFile::Open(path));
  auto manifest = ManifestFromJson(
      std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()));
  if (manifest.ok()) return manifest;
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", manifest.status().message()));
}

absl::Status CheckSameRun(const Manifest& earlier, const Manifest& now) {
  TANDEM_RETURN_IF_ERROR(Same("the suite", earlier.suite, now.suite));
  TANDEM_RETURN_IF_ERROR(
      Same("the questions (SHA-256)", earlier.prompts_sha256, now.prompts_sha256));
  TANDEM_RETURN_IF_ERROR(Same("the temperature", earlier.temperature, now.temperature));
  TANDEM_RETURN_IF_ERROR(Same("the token limit", earlier.max_tokens, now.max_tokens));
  TANDEM_RETURN_IF_ERROR(Same("the seed", earlier.seed, now.seed));
  TANDEM_RETURN_IF_ERROR(Same("the model digest", earlier.model.digest(), now.model.digest()));
  TANDEM_RETURN_IF_ERROR(
      Same("the recipe's digest", earlier.model.recipe_digest(), now.model.recipe_digest()));
  TANDEM_RETURN_IF_ERROR(SameIfKnown("the formats of linear layers", earlier.model.linear_formats(),
                                     now.model.linear_formats()));
  TANDEM_RETURN_IF_ERROR(SameIfKnown("the expert formats", earlier.model.expert_formats(),
                                     now.model.expert_formats()));
  TANDEM_RETURN_IF_ERROR(
      SameIfKnown("the precision", earlier.model.precision(), now.model.precision()));
  TANDEM_RETURN_IF_ERROR(SameIfKnown("the backend", earlier.model.backend(), now.model.backend()));
  return SameIfKnown("the attention kernel", earlier.model.attention(), now.model.attention());
}

AnswerParser HeadlineParser(const Manifest& manifest) {
  return ParserNamed(manifest.headline_parser).value_or(AnswerParser::kStrict);
}

Speed TotalSpeed(const Manifest& manifest) {
  Speed speed;
  for (const Session& session : manifest.sessions) {
    speed.asked += session.asked;
    speed.prompt_tokens += session.prompt_tokens;
    speed.completion_tokens += session.completion_tokens;
    speed.wall_s += session.wall_s;
  }
  return speed;
}

std::string UtcTime(const char* format) {
  return absl::FormatTime(format, absl::Now(), absl::UTCTimeZone());
}

void DescribeHost(Manifest* manifest) {
  manifest->host_cores = std::thread::hardware_concurrency();
  manifest->host_cpu = "unknown";
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) manifest->host_cpu = line.substr(colon + 2);
    return;
  }
}

}  // namespace tandem::eval
