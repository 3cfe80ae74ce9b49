// tandem-eval: asks a served model exam questions and says, with statistics, how well it answers.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "eval_client/run.h"
#include "eval_client/table/table_command.h"
#include "lib/base/program.h"

namespace tandem::eval {
namespace {

constexpr char kUsage[] =
    "tandem-eval asks a served model exam questions and says how well it answers.\n\n"
    "  tandem-eval run --suite quiz --endpoint HOST:PORT   asks and prints the result table\n"
    "  tandem-eval report FOLDER [--against FOLDER]        prints the table of a stored run\n"
    "  tandem-eval table --model MODEL --suite quiz        measures every recipe, one cluster "
    "after "
    "another\n\n"
    "tandem-eval COMMAND --help lists the flags.\n";

constexpr char kRunExamples[] =
    "  tandem-eval run --suite quiz --endpoint 127.0.0.1:50051\n"
    "  tandem-eval run --suite mmlu --data mmlu/test --max-tokens 512 --out runs/q4\n"
    "  tandem-eval run --suite mmlu --data mmlu/test --max-tokens 512 --out runs/q4 --resume\n"
    "  tandem-eval run --suite quiz --temperature 0 --fail-under 70 --json\n\n"
    "Exit codes: 0 done, 1 a question failed or the run broke off, 2 could not start, 5 score "
    "below\n"
    "--fail-under, 130 interrupted (the journal is kept, --resume goes on).";

constexpr char kReportExamples[] =
    "  tandem-eval report runs/q4\n"
    "  tandem-eval report runs/q4 --against runs/bf16";

constexpr char kTableExamples[] =
    "  tandem-eval table --model models/quiz --suite quiz\n"
    "  tandem-eval table --model /models/v3 --suite mmlu,mmlu_pro,gsm8k,humaneval --data /data\n"
    "  tandem-eval table --model models/quiz --rows mmlu-1,mmlu-7 --out tables/iq1 --resume\n"
    "  tandem-eval table --model models/quiz --baseline http://127.0.0.1:8080/v1 -- --cpu-workers "
    "4\n\n"
    "What stands behind -- goes to `tandem up`. Exit codes: 0 done, 1 a run broke off, 2 could "
    "not\n"
    "start, 130 interrupted (--resume goes on where it stopped).";

void AddSuiteOptions(CLI::App& app, RunOptions& options) {
  app.add_option("--suite", options.suites, "One or more of the suites, separated by commas")
      ->capture_default_str()
      ->delimiter(',')
      ->check(CLI::IsMember(SuiteNames()));
  // Not from the environment: TANDEM_DATA there means the folder of test data.
  app.add_option("--data", options.suite.data,
                 "The suite's data, or a folder that holds a folder of each suite "
                 "(quiz: default models/quiz/quiz_test.jsonl)")
      ->configurable(false);
  app.add_option("--limit", options.suite.limit, "Only the first so many questions of a suite")
      ->check(CLI::PositiveNumber);
  app.add_option("--shots", options.suite.shots, "Solved examples in front of each question")
      ->check(CLI::Range(0, 64));
  app.add_option("--samples", options.suite.samples, "Answers per question, for pass@k")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--variant", options.suite.variant, "Which published way of asking a suite");
}

void AddEndpointOptions(CLI::App& app, RunOptions& options) {
  // `tandem up` tells the command it runs where the cluster is.
  if (const char* address = std::getenv("TANDEM_ADDRESS")) options.endpoint.address = address;
  app.add_option("--endpoint", options.endpoint.address,
                 "Coordinator, host:port (default: TANDEM_ADDRESS, which `tandem up` sets), or the "
                 "URL of an OpenAI-compatible server, http://host:port/v1")
      ->capture_default_str();
  app.add_option("--model-name", options.endpoint.model,
                 "Model to ask an OpenAI server for (default: the first it lists)");
  app.add_option("--requests-per-minute", options.endpoint.requests_per_minute,
                 "Never more than that to an OpenAI server; 0: no limit")
      ->check(CLI::Range(0.0, 1e6));
  if (const char* key = std::getenv("OPENAI_API_KEY")) options.endpoint.api_key = key;
  app.add_flag("!--no-letters", options.letters,
               "Do not ask for the log probabilities of the letters");
}

void AddAskingOptions(CLI::App& app, RunOptions& options) {
  app.add_option("--concurrency", options.concurrency, "Questions in flight")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  app.add_option_function<uint32_t>(
         "--max-tokens",
         [&options](uint32_t value) { options.max_tokens = options.suite.max_tokens = value; },
         "Most tokens per answer (default: the suite's, or 16)")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option_function<float>(
         "--temperature",
         [&options](float value) {
           options.temperature = value;
           options.suite.temperature = value;
         },
         "0 is greedy (default: the suite's, or 0.6)")
      ->check(CLI::Range(0.0, 2.0));
  app.add_option("--seed", options.seed, "Seed of the run; each question derives its own")
      ->capture_default_str();
  app.add_option("--ready-wait-seconds", options.ready_wait_s, "Seconds to wait for a ready model")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  app.add_option("--question-timeout-seconds", options.question_timeout_s,
                 "Seconds per question, all attempts together")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 86400.0));
}

void AddResultOptions(CLI::App& app, RunOptions& options) {
  app.add_option("--out", options.out,
                 "Folder for journal and manifest (default eval_runs/<suite>-<time>)");
  app.add_flag("--resume", options.resume, "Go on with the run in --out; asks nothing twice");
  app.add_flag("--json", options.json, "Print the result as JSON");
  app.add_option("--fail-under", options.fail_under_percent, "Exit 5 below this percentage")
      ->check(CLI::Range(0.0, 100.0));
}

int RunMain(int argc, char** argv, const std::string& command_line) {
  RunOptions options;
  CLI::App app("Asks a served model the questions of a suite and prints a table.",
               "tandem-eval run");
  AddSuiteOptions(app, options);
  AddEndpointOptions(app, options);
  AddAskingOptions(app, options);
  AddResultOptions(app, options);
  base::AddStandardOptions(app, kRunExamples);
  const int code = base::ParseOrExitCode(app, argc, argv);
  if (code >= 0) return code;
  base::InstallStopSignals();
  return RunSuites(options, command_line);
}

int ReportMain(int argc, char** argv) {
  ReportOptions options;
  CLI::App app("Prints the table of a stored run, judged anew from its raw answers.",
               "tandem-eval report");
  app.add_option("folder", options.folder, "Folder of the run")->required();
  app.add_option("--against", options.baseline,
                 "Folder of another run over the same questions, to compare with");
  app.add_flag("--json", options.json, "Print the result as JSON");
  base::AddStandardOptions(app, kReportExamples);
  const int code = base::ParseOrExitCode(app, argc, argv);
  return code >= 0 ? code : ReportRun(options);
}

// A list of KEY=VALUE.
void AddPairsOption(CLI::App& app, const std::string& flag, std::map<std::string, std::string>* to,
                    const std::string& form, const std::string& help) {
  app.add_option_function<std::vector<std::string>>(
         flag,
         [to](const std::vector<std::string>& pairs) {
           for (const std::string& pair : pairs) {
             const size_t equals = pair.find('=');
             (*to)[pair.substr(0, equals)] = pair.substr(equals + 1);
           }
         },
         help)
      ->delimiter(',')
      ->check([form](const std::string& pair) {
        return pair.find('=') != std::string::npos ? "" : "expected " + form + ", found " + pair;
      });
}

void AddTableOptions(CLI::App& app, TableOptions& o) {
  app.add_option("--model", o.model, "Stands for ${model} in the recipes")->required();
  AddPairsOption(app, "--row-model", &o.row_models, "ROW=MODEL",
                 "Another model for single rows, as mmlu-7=/models/r1");
  app.add_option("--recipes", o.recipes, "Recipe files, or folders of them")
      ->capture_default_str()
      ->delimiter(',');
  app.add_option("--rows", o.rows, "Only the recipes of these names")->delimiter(',');
  app.add_option("--suite", o.suites, "One or more suites, separated by commas")
      ->capture_default_str()
      ->delimiter(',')
      ->check(CLI::IsMember(SuiteNames()));
  app.add_option("--data", o.data, "Folder that holds a folder of each suite (not for quiz)")
      ->configurable(false);
  app.add_option("--limit", o.limit, "Only the first so many questions of each suite")
      ->check(CLI::PositiveNumber);
  app.add_option("--shots", o.shots, "Solved examples in front of each question")
      ->check(CLI::Range(0, 64));
  AddPairsOption(app, "--variant", &o.variants, "SUITE=NAME",
                 "Another published way of asking a suite, as gsm8k=lm-eval");
  app.add_option("--samples", o.samples, "Answers per HumanEval problem")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--max-tokens", o.max_tokens, "Most tokens per answer (default: the suite's)")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--temperature", o.temperature, "0 is greedy (default: the suite's)")
      ->check(CLI::Range(0.0, 2.0));
  app.add_option("--seed", o.seed, "Seed of all runs")->capture_default_str();
  app.add_option("--concurrency", o.concurrency, "Questions in flight")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  app.add_option("--ready-wait-seconds", o.ready_wait_s, "Seconds for a cluster to become ready")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  app.add_option("--question-timeout-seconds", o.question_timeout_s,
                 "Seconds per question, all attempts together")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 86400.0));
}

void AddTableResultOptions(CLI::App& app, TableOptions& o) {
  app.add_option(
         "--baseline", o.baseline.address,
         "URL of an OpenAI-compatible server (http://host:port/v1) asked the same questions; "
         "its key is OPENAI_API_KEY")
      ->check([](const std::string& url) {
        return IsHttpUrl(url) ? "" : "expected a URL, http://... or https://..., found " + url;
      });
  if (const char* key = std::getenv("OPENAI_API_KEY")) o.baseline.api_key = key;
  app.add_option("--baseline-model", o.baseline.model, "Its model (default: the first it lists)");
  app.add_option("--baseline-name", o.baseline_name, "Head of its column")->capture_default_str();
  app.add_option("--requests-per-minute", o.baseline.requests_per_minute,
                 "Never more than that to the baseline; 0: no limit")
      ->check(CLI::Range(0.0, 1e6));
  app.add_flag("!--no-noise-run", o.noise_run, "Do not run the first row again under another seed");
  app.add_option("--out", o.out, "Folder of the table (default eval_runs/table-<time>)");
  app.add_flag("--resume", o.resume, "Go on with the table in --out; asks nothing twice");
  app.add_flag("--json", o.json, "Print the table as JSON");
}

int TableMain(int argc, char** argv, const std::string& command_line) {
  TableOptions options;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--") != 0) continue;
    options.up_arguments.assign(argv + i + 1, argv + argc);
    argc = i;
  }
  CLI::App app("Measures the whole result table: every recipe, one cluster after another.",
               "tandem-eval table");
  AddTableOptions(app, options);
  AddTableResultOptions(app, options);
  base::AddStandardOptions(app, kTableExamples);
  const int code = base::ParseOrExitCode(app, argc, argv);
  if (code >= 0) return code;
  base::InstallStopSignals();
  base::WatchChildren();
  return MakeTable(options, command_line);
}

int Main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "run") {
    return RunMain(argc - 1, argv + 1, absl::StrJoin(argv, argv + argc, " "));
  }
  if (command == "table") {
    return TableMain(argc - 1, argv + 1, absl::StrJoin(argv, argv + argc, " "));
  }
  if (command == "report") return ReportMain(argc - 1, argv + 1);
  if (command == "--help" || command == "-h") {
    std::fputs(kUsage, stdout);
    return 0;
  }
  if (command == "--version") {
    std::printf("tandem-eval %s\n", base::VersionString().c_str());
    return 0;
  }
  std::fprintf(stderr,
               "tandem-eval: expected the command run, report or table, found '%s' (try --help)\n",
               command.c_str());
  return base::kExitCannotStart;
}

}  // namespace
}  // namespace tandem::eval

int main(int argc, char** argv) { return tandem::eval::Main(argc, argv); }
