#include "gpu_worker/server/options.h"

#include <algorithm>
#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/host/kv_cache.h"
#include "gpu_worker/backend/host/linear_format.h"
#include "gpu_worker/backend/shard/shard_plan.h"
#include "gpu_worker/engine/half_batches.h"
#include "lib/base/check.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#include "lib/rpc/address.h"

namespace tandem::gpu_worker {
namespace {

// MemAvailable of /proc/meminfo in bytes; 4 GiB where there is no such file.
int64_t AvailableBytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  std::string unit;
  while (file >> key >> kib) {
    std::getline(file, unit);
    if (key == "MemAvailable:") return kib * 1024;
  }
  return int64_t{4} << 30;
}

// --linear in the words of recipes.
LinearChoice ChoiceOf(const WorkerOptions& options) {
  LinearChoice choice;
  if (options.linear == "native" || options.linear == "onednn") {
    choice.kernel = options.linear;
    return choice;
  }
  choice.format = *ParseWeightFormat(options.linear);  // the command line lets nothing else in
  choice.kernel = DefaultKernel(choice.format);
  if (choice.kernel == "marlin") choice.group = options.marlin_group;
  return choice;
}

// CLI11's way of checking a word: empty when it is one.
std::string IsHalfBatches(const std::string& text) {
  int64_t rows = 0;
  if (text == "auto" || text == "off" || (absl::SimpleAtoi(text, &rows) && rows >= 2)) return "";
  return absl::StrCat("--half-batches: expected auto, off or at least 2 rows, found ", text);
}

// How layers are computed.
void AddComputeOptions(CLI::App& app, WorkerOptions* o) {
  app.add_option("--backend", o->backend, "host or cuda")
      ->capture_default_str()
      ->check(CLI::IsMember({"host", "cuda"}));
  app.add_option("--kernels", o->kernels,
                 "Kernels of the CUDA backend: portable (tensor cores, sm_80 and newer), hopper "
                 "(sm_90), reference (plain f32 loops, slow), auto (portable; reference with "
                 "--precision f32)")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "portable", "hopper", "reference"}));
  app.add_option("--device", o->device, "Number of the CUDA device")
      ->capture_default_str()
      ->check(CLI::Range(0, 1023));
  app.add_option("--cuda-graphs", o->cuda_graphs,
                 "Replay the calls between two expert exchanges as CUDA graphs: true or false")
      ->capture_default_str();
  app.add_option(
         "--ranks", o->ranks,
         "Ranks that share the work, each with its part of the weights: GPUs from --device on, "
         "or with --backend host threads of this process; must divide the model's heads")
      ->capture_default_str()
      ->check(CLI::Range(1, kRanksMax));
  app.add_option("--rank-timeout-seconds", o->rank_timeout_seconds,
                 "How long a rank waits for another before the worker ends with an error")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 3600.0));
  app.add_option("--attention", o->attention, "flash or reference")
      ->capture_default_str()
      ->check(CLI::IsMember({"flash", "reference"}));
  app.add_option(
         "--linear", o->linear,
         "Linear layers: native (bf16, same bits on every processor), onednn (bf16), stored (the "
         "file's own format with int8 inputs: least memory traffic), fp8 (e4m3, a scale per "
         "128x128 weights and 1x128 inputs), marlin8 or marlin4 (int8 or int4 weights, bf16 "
         "inputs)")
      ->capture_default_str()
      ->check(CLI::IsMember({"native", "onednn", "stored", "fp8", "marlin8", "marlin4"}));
  app.add_option("--marlin-group", o->marlin_group,
                 "Inputs that share a scale in marlin8 and marlin4: 128 or 64")
      ->capture_default_str()
      ->check(CLI::IsMember({64, 128}));
  app.add_option("--precision", o->precision, "bf16 or f32")
      ->capture_default_str()
      ->check(CLI::IsMember({"bf16", "f32"}));
}

// How expert workers are asked, and how that is looked at.
void AddExpertOptions(CLI::App& app, WorkerOptions* o) {
  app.add_option("--expert-transport", o->expert_transport,
                 "How expert workers are asked: auto (shared memory on the same host, gRPC "
                 "elsewhere), grpc or shm")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "grpc", "shm"}));
  app.add_option("--half-batches", o->half_batches,
                 "Rows from which on a step of several sequences goes as two halves, the experts "
                 "of one asked while the device works on the other: a number, off, or auto (off on "
                 "the host backend)")
      ->capture_default_str()
      ->check(IsHalfBatches);
  app.add_option("--trace", o->trace,
                 "File for a time line of the last steps, for ui.perfetto.dev (docs/trace.md); "
                 "written after --trace-steps steps and at the end");
  app.add_option("--trace-steps", o->trace_steps, "Steps that --trace keeps")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{100'000}));
  app.add_option(
         "--expert-patience-seconds", o->expert_patience_seconds,
         "How long an expert without a reachable worker is tried again before its sequences fail")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 3600.0));
}

}  // namespace

void AddWorkerOptions(CLI::App& app, WorkerOptions* o) {
  app.add_option("--model", o->model, "Model folder or GGUF file; experts are not read")
      ->required();
  app.add_option("--recipe", o->recipe,
                 "Recipe that names sources, linear formats and attention; --model is its "
                 "${model}, and --attention, --precision and --linear win over it");
  app.add_option("--coordinator", o->coordinator, "Coordinator's host:port")->required();
  app.add_option("--listen", o->listen, "Address for step plans; port 0 takes any")
      ->capture_default_str();
  app.add_option(
      "--advertise", o->advertise,
      "host or host:port the coordinator reaches this worker at, when it listens on 0.0.0.0");
  app.add_option("--admin-listen", o->admin_listen, "Address of /metrics, /healthz, /readyz")
      ->capture_default_str();
  app.add_option(
         "--routing", o->routing,
         "For GGUF files without routing keys: assume what the model was trained with, or as-file")
      ->capture_default_str()
      ->check(CLI::IsMember({"assume", "as-file"}));
  app.add_option(
         "--kv-tokens", o->kv_tokens,
         "Tokens the KV cache holds; 0: the model's context within a quarter of free memory")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 32));
  app.add_option("--rows-max", o->rows_max, "Rows of one step")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{4096}));
  app.add_option("--threads", o->threads, "Threads of the host backend; 0: one per core")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  app.add_option("--drain-seconds", o->drain_seconds, "How long sequences may go on after SIGTERM")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  AddComputeOptions(app, o);
  AddExpertOptions(app, o);
}

GivenFlags GivenFlagsOf(const CLI::App& app) {
  return {app.count("--attention") > 0, app.count("--precision") > 0, app.count("--linear") > 0};
}

void ApplyRecipe(const Recipe& recipe, const GivenFlags& given, WorkerOptions* options) {
  const auto take = [](const char* flag, bool is_given, const std::string& of_recipe,
                       std::string* value) {
    if (!is_given) {
      *value = of_recipe;
    } else if (*value != of_recipe) {
      base::LogWarning("flag_wins_over_recipe",
                       {{"flag", flag}, {"value", *value}, {"recipe", of_recipe}});
    }
  };
  take("--attention", given.attention, recipe.attention, &options->attention);
  take("--precision", given.precision, recipe.precision, &options->precision);
}

absl::StatusOr<std::vector<AssignedModule>> LinearLayers(const WorkerOptions& options,
                                                         const std::optional<Recipe>& recipe,
                                                         const GivenFlags& given,
                                                         const ModelConfig& config) {
  if (recipe.has_value()) {
    TANDEM_ASSIGN_OR_RETURN(std::vector<AssignedModule> modules, AssignLinear(*recipe, config));
    if (!given.linear) return modules;
    base::LogWarning(
        "flag_wins_over_recipe",
        {{"flag", "--linear"}, {"value", options.linear}, {"recipe", FormatsText(modules)}});
  }
  Recipe all_alike;
  all_alike.file = "--linear";
  all_alike.linear_default = ChoiceOf(options);
  return AssignLinear(all_alike, config);
}

LinearFormat BackendFormat(const LinearChoice& choice) {
  if (choice.format == WeightFormat::kBf16)
    return choice.kernel == "onednn" ? LinearKernel::kOneDnn : LinearKernel::kNative;
  const absl::StatusOr<LinearFormat> format =
      ParseLinearFormat(tandem::NameOf(choice.format), static_cast<int>(choice.group));
  TANDEM_CHECK(format.ok());  // both sides have the same names
  return *format;
}

absl::Status CheckWorkerOptions(const WorkerOptions& options) {
  TANDEM_RETURN_IF_ERROR(ParseLinearFormat(options.linear, options.marlin_group).status());
  if (options.backend == "host" && options.kernels != "auto") {
    return absl::InvalidArgumentError(absl::StrCat("expected --backend cuda with --kernels ",
                                                   options.kernels, ", found --backend host"));
  }
  return absl::OkStatus();
}

int64_t KvPages(const WorkerOptions& options, const ModelConfig& config, Precision precision) {
  int64_t tokens = options.kv_tokens;
  if (tokens == 0) {
    const int64_t token_bytes =
        KvCache::BytesPerToken(precision, config.num_hidden_layers, config.kv_row_dim());
    const int64_t bytes = token_bytes * options.ranks;
    tokens = std::min(config.max_position_embeddings, AvailableBytes() / 4 / bytes);
  }
  return std::max<int64_t>(1, (tokens + kPageTokens - 1) / kPageTokens);
}

int64_t HalfRowsMin(const WorkerOptions& options, const ModelConfig& config,
                    const BackendInfo& backend) {
  if (options.half_batches == "off") return 0;
  int64_t rows = 0;
  if (absl::SimpleAtoi(options.half_batches, &rows)) return rows;
  return DefaultHalfRowsMin(config, backend);
}

absl::StatusOr<std::string> AdvertisedAddress(const WorkerOptions& options,
                                              const std::string& listening, int port) {
  const std::string& wanted = options.advertise;
  if (wanted.empty()) {
    TANDEM_ASSIGN_OR_RETURN(const rpc::HostPort address, rpc::ParseHostPort(listening));
    if (address.host == "0.0.0.0" || address.host == "::") {
      return absl::InvalidArgumentError(
          absl::StrCat("--listen ", listening,
                       " takes all addresses: expected --advertise with the one to use"));
    }
    return listening;
  }
  absl::StatusOr<rpc::HostPort> address = rpc::ParseHostPort(wanted);
  if (!address.ok()) address = rpc::HostPort{wanted, 0};
  if (address->port == 0) address->port = static_cast<uint16_t>(port);
  return rpc::FormatHostPort(*address);
}

}  // namespace tandem::gpu_worker
