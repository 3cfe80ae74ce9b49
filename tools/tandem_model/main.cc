// tandem-model: looks at weight files, checks them, and makes synthetic ones.
#include <iostream>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "lib/base/clock.h"
#include "lib/base/program.h"
#include "lib/base/text.h"
#include "lib/model/synth_presets.h"
#include "tools/tandem_model/inspect.h"
#include "tools/tandem_model/progress.h"
#include "tools/tandem_model/synth_command.h"
#include "tools/tandem_model/verify.h"

namespace tandem {
namespace {

constexpr char kProgram[] = "tandem-model";
constexpr char kExamples[] =
    "  tandem-model inspect DeepSeek-V3-Q4_K_M-00001-of-00009.gguf\n"
    "  tandem-model inspect --json --tensors ./DeepSeek-V2-Lite | jq .formats\n"
    "  tandem-model verify ./Kimi-K2-Instruct\n"
    "  tandem-model synth --config config.json --format q4_K_M --container gguf --out tiny.gguf "
    "--layers 4\n"
    "  tandem-model synth --config config.json --format bf16 --container safetensors --out ./tiny "
    "--experts 16 \\\n"
    "      --set n_group=1 --set topk_group=1\n"
    "  tandem-model synth --config DeepSeek-V3/config.json --format q4_K_M --container gguf --out "
    "one_layer.gguf \\\n"
    "      --layers 1 --set first_k_dense_replace=0\n"
    "  tandem-model synth --preset v2-lite --format q4_K_M --container gguf --out lite.gguf";

struct Flags {
  std::string path;
  std::string routing = "assume";
  InspectOptions inspect;
  SynthFlags synth;
};

void AddPath(CLI::App& command, Flags& flags) {
  command
      .add_option("path", flags.path,
                  "A .gguf file (the first of a split model), a .safetensors file, or a folder")
      ->required();
  command
      .add_option(
          "--routing", flags.routing,
          "Old GGUF files without routing keys: assume the published model's, or take them as-file")
      ->check(CLI::IsMember({"assume", "as-file"}))
      ->capture_default_str();
}

CLI::App* AddInspect(CLI::App& app, Flags& flags) {
  CLI::App* command =
      app.add_subcommand("inspect", "Print what a model's files hold, without reading the weights");
  AddPath(*command, flags);
  command->add_flag("--json", flags.inspect.json, std::string("Print one JSON object"));
  command->add_flag("--tensors", flags.inspect.tensors, std::string("List every tensor"));
  return command;
}

CLI::App* AddVerify(CLI::App& app, Flags& flags) {
  CLI::App* command =
      app.add_subcommand("verify", "Read every byte and check that the model can be served");
  AddPath(*command, flags);
  return command;
}

CLI::App* AddSynth(CLI::App& app, SynthFlags& flags) {
  CLI::App* command = app.add_subcommand("synth", "Write a model with random weights");
  command->add_option("--config", flags.config,
                      "config.json of the architecture, or a folder that holds it");
  command->add_option("--preset", flags.preset,
                      absl::StrCat("An architecture by name instead of a config: ",
                                   absl::StrJoin(SynthPresetNames(), ", ")));
  command
      ->add_option("--format", flags.format,
                   "A stock mix (q4_K_M, q5_K_M, q3_K_M, q4_K_S, q2_K, iq2_xxs, iq4_xs, iq1_s, "
                   "iq1_m) or one type "
                   "(f32, f16, bf16, f8_e4m3, q8_0, q6_K, ...)")
      ->required();
  command->add_option("--container", flags.container, "gguf or safetensors")->required();
  command->add_option("--out", flags.out, "The .gguf file, or the folder for safetensors")
      ->required();
  command->add_option("--layers", flags.layers, "Number of layers instead of the config's")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--experts", flags.experts, "Number of routed experts instead of the config's")
      ->check(CLI::PositiveNumber);
  command->add_option("--seed", flags.seed, "Equal seeds give equal files")->capture_default_str();
  command
      ->add_option("--set", flags.set,
                   "Change a field of the config: key=value, value as JSON; repeatable")
      ->allow_extra_args(false);
  command
      ->add_option("--expert-layout", flags.expert_layout,
                   "usual, separate (one tensor per expert) or gate-up (gate and up in one tensor)")
      ->capture_default_str();
  command->add_flag("--pure", flags.pure,
                    std::string("Every matrix in the one type, no stock mix"));
  command->add_flag("--fused-kv-b", flags.fused_kv_b,
                    std::string("GGUF: kv_b in one tensor, as old files have it"));
  command->add_flag("--force", flags.force, std::string("Overwrite what is there"));
  return command;
}

// What ended a pass over a model: an order to stop is no fault of the files.
int Failed(const absl::Status& status) {
  const int exit_code = base::CannotStart(kProgram, status);
  return absl::IsCancelled(status) ? base::kExitFailed : exit_code;
}

LoadOptions LoadOptionsOf(const Flags& flags) {
  LoadOptions options;
  options.routing = flags.routing == "as-file" ? OldFileRouting::kAsFile : OldFileRouting::kAssume;
  return options;
}

int Inspect(Flags& flags) {
  flags.inspect.load = LoadOptionsOf(flags);
  const absl::StatusOr<std::string> report = InspectModel(flags.path, flags.inspect);
  if (!report.ok()) return base::CannotStart(kProgram, report.status());
  std::cout << *report << std::flush;
  return std::cout.good() ? 0 : base::kExitFailed;
}

int Verify(const Flags& flags) {
  absl::StatusOr<VerifyResult> result;
  {
    Progress progress("verifying", base::RealClock());
    result = VerifyModel(flags.path, LoadOptionsOf(flags), [&](int64_t done, int64_t total) {
      progress.Update(done, total);
      return !base::StopRequested();
    });
  }
  if (!result.ok()) return Failed(result.status());
  std::cout << "sound: " << result->tensors << " tensors, " << base::HumanBytes(result->bytes)
            << "\ndigest " << result->digest << std::endl;
  return 0;
}

int Synth(const SynthFlags& flags) {
  const absl::StatusOr<SynthOptions> options = ResolveSynthFlags(flags);
  if (!options.ok()) return base::CannotStart(kProgram, options.status());
  const base::Clock& clock = base::RealClock();
  const absl::Duration start = clock.Monotonic();
  absl::StatusOr<SynthResult> result;
  {
    Progress progress("writing", clock);
    result = SynthesizeModel(*options, [&](int64_t done, int64_t total) {
      progress.Update(done, total);
      return !base::StopRequested();
    });
  }
  if (absl::IsAlreadyExists(result.status()))
    return base::CannotStart(
        kProgram, absl::AlreadyExistsError(absl::StrCat(std::string(result.status().message()),
                                                        " (--force overwrites)")));
  if (!result.ok()) return Failed(result.status());
  const double seconds = absl::ToDoubleSeconds(clock.Monotonic() - start);
  std::cout << "wrote " << result->files.front() << ": " << result->tensors << " tensors, "
            << base::HumanBytes(result->weight_file_bytes) << " at "
            << static_cast<int64_t>(static_cast<double>(result->weight_file_bytes) / seconds / 1e6)
            << " MB/s" << std::endl;
  return 0;
}

int Main(int argc, char** argv) {
  CLI::App app("Looks at weight files, checks them, and makes synthetic ones", kProgram);
  base::AddStandardOptions(app, kExamples);
  app.require_subcommand(1);
  Flags flags;
  CLI::App* inspect = AddInspect(app, flags);
  CLI::App* verify = AddVerify(app, flags);
  AddSynth(app, flags.synth);
  const int exit_code = base::ParseOrExitCode(app, argc, argv);
  if (exit_code >= 0) return exit_code;
  base::InstallStopSignals();
  if (inspect->parsed()) return Inspect(flags);
  if (verify->parsed()) return Verify(flags);
  return Synth(flags.synth);
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) { return tandem::Main(argc, argv); }
