// tandem-bench-client: asks a running cluster for prefills and decodes and reports how long they
// took, as a user would see it. Driven over stdin by bench/run model; docs/benchmarks.md has the
// commands.
#include <algorithm>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "tools/tandem/grpc_client.h"

namespace tandem::bench {
namespace {

constexpr char kProgram[] = "tandem-bench-client";
constexpr char kExamples[] =
    "  echo 'prefill 512' | tandem-bench-client --address 127.0.0.1:50051\n"
    "  echo 'decode 128' | tandem-bench-client --address 127.0.0.1:50051";
constexpr int kDecodePrompt = 8;  // tokens in front of a decode; not counted
constexpr absl::Duration kAnswerMax = absl::Minutes(5);

using Json = nlohmann::ordered_json;

double Seconds() { return absl::ToDoubleSeconds(base::RealClock().Monotonic()); }

struct Answered {
  double first_s = 0;  // from the call to the first token
  double last_s = 0;   // to the last
  int tokens = 0;
};

class Asker {
 public:
  Asker(const std::string& address, uint32_t vocabulary)
      : client_(address), vocabulary_(vocabulary) {}

  // Random tokens, other ones each time.
  absl::StatusOr<Answered> Ask(int prompt_tokens, int max_tokens) {
    inference::v1::GenerateRequest request;
    // The first tokens of a vocabulary and its last ones may mean something.
    std::uniform_int_distribution<uint32_t> token(vocabulary_ / 8, vocabulary_ / 2);
    for (int i = 0; i < prompt_tokens; ++i) request.mutable_tokens()->add_ids(token(random_));
    request.set_max_tokens(max_tokens);
    Answered answered;
    const double start = Seconds();
    TANDEM_RETURN_IF_ERROR(
        client_.Generate(request, kAnswerMax, [&](const inference::v1::GenerateChunk& chunk) {
          if (chunk.tokens_size() == 0) return true;
          answered.last_s = Seconds() - start;
          if (answered.tokens == 0) answered.first_s = answered.last_s;
          answered.tokens += chunk.tokens_size();
          return true;
        }));
    if (answered.tokens < max_tokens)
      return absl::OutOfRangeError(absl::StrCat(
          "expected ", max_tokens, " tokens, the model ended after ", answered.tokens));
    return answered;
  }

  absl::StatusOr<Json> Answer(const std::string& line) {
    std::istringstream words(line);
    std::string command;
    int count = 0;
    words >> command >> count;
    if (count < 1 || (command != "prefill" && command != "decode"))
      return absl::InvalidArgumentError(absl::StrCat("cannot do: ", line));
    if (command == "prefill") {
      TANDEM_ASSIGN_OR_RETURN(const Answered answered, Ask(count, 1));
      return Json{{"seconds", answered.first_s}, {"tokens", count}};
    }
    TANDEM_ASSIGN_OR_RETURN(const Answered answered, Ask(kDecodePrompt, count + 1));
    return Json{{"seconds", answered.last_s - answered.first_s}, {"tokens", count}};
  }

 private:
  launcher::CoordinatorClient client_;
  uint32_t vocabulary_;
  std::mt19937_64 random_{1};
};

absl::Status Serve(const std::string& address) {
  TANDEM_ASSIGN_OR_RETURN(const inference::v1::ModelInfo info,
                          launcher::CoordinatorClient(address).Info(absl::Seconds(10)));
  std::cout << Json{{"ready", "tandem"}, {"form", info.expert_formats()}}.dump() << std::endl;
  Asker asker(address, info.vocab_size());
  for (std::string line; std::getline(std::cin, line);) {
    TANDEM_ASSIGN_OR_RETURN(const Json answer, asker.Answer(line));
    std::cout << answer.dump() << std::endl;
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Times prefills and decodes of a running cluster", kProgram);
  base::AddStandardOptions(app, kExamples);
  std::string address;
  app.add_option("--address", address, "The coordinator's host:port")->required();
  const int exit_code = base::ParseOrExitCode(app, argc, argv);
  if (exit_code >= 0) return exit_code;
  const absl::Status status = Serve(address);
  return status.ok() ? 0 : base::CannotStart(kProgram, status);
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) { return tandem::bench::Main(argc, argv); }
