#include "tools/tandem/chat.h"

#include <unistd.h>

#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "lib/base/program.h"
#include "tools/tandem/grpc_client.h"

namespace tandem::launcher {
namespace {

constexpr char kName[] = "tandem chat";
constexpr char kExamples[] =
    "  tandem chat --address 127.0.0.1:50051\n"
    "  echo 'What is the capital of France?' | tandem chat --address 127.0.0.1:50051\n"
    "An empty line starts a new conversation; the end of input (Ctrl-D) ends the chat.";

struct ChatOptions {
  std::string address = "127.0.0.1:50051";
  std::string system;
  uint32_t max_tokens = 512;
  float temperature = 0.6f;
  float top_p = 0.95f;
  uint64_t seed = 1;
  double timeout_seconds = 600;
};

void AddOptions(CLI::App& app, ChatOptions* o) {
  app.add_option("--address", o->address, "The coordinator's host:port")->capture_default_str();
  app.add_option("--system", o->system, "System message of each conversation");
  app.add_option("--max-tokens", o->max_tokens, "Most tokens of an answer")->capture_default_str();
  app.add_option("--temperature", o->temperature, "0 takes the most likely token")
      ->capture_default_str();
  app.add_option("--top-p", o->top_p, "Share of the probability to draw from")
      ->capture_default_str();
  app.add_option("--seed", o->seed, "The same seed and questions give the same answers")
      ->capture_default_str();
  app.add_option("--timeout-seconds", o->timeout_seconds, "For one answer")->capture_default_str();
}

void AddMessage(const std::string& role, const std::string& content,
                inference::v1::ChatPrompt* chat) {
  inference::v1::ChatMessage* message = chat->add_messages();
  message->set_role(role);
  message->set_content(content);
}

inference::v1::ChatPrompt NewConversation(const ChatOptions& options) {
  inference::v1::ChatPrompt chat;
  if (!options.system.empty()) AddMessage("system", options.system, &chat);
  return chat;
}

// Prints the answer as it comes and adds it to the conversation.
absl::Status Answer(CoordinatorClient* client, const ChatOptions& options,
                    inference::v1::ChatPrompt* chat) {
  inference::v1::GenerateRequest request;
  *request.mutable_chat() = *chat;
  request.set_max_tokens(options.max_tokens);
  request.mutable_sampling()->set_temperature(options.temperature);
  request.mutable_sampling()->set_top_p(options.top_p);
  request.mutable_sampling()->set_seed(options.seed);
  std::string answer;
  const absl::Status status =
      client->Generate(request, absl::Seconds(options.timeout_seconds),
                       [&answer](const inference::v1::GenerateChunk& chunk) {
                         std::cout << chunk.text() << std::flush;
                         answer += chunk.text();
                         return !base::StopRequested();
                       });
  std::cout << std::endl;
  if (status.ok()) AddMessage("assistant", answer, chat);
  return status;
}

int Talk(const ChatOptions& options) {
  CoordinatorClient client(options.address);
  const absl::StatusOr<inference::v1::ModelInfo> info = client.Info(absl::Seconds(5));
  if (!info.ok()) {
    std::cerr << kName << ": no coordinator answers at " << options.address << ": "
              << info.status().message() << std::endl;
    return base::kExitFailed;
  }
  const bool tty = isatty(STDIN_FILENO) != 0;
  if (tty)
    std::cerr << "model " << info->name()
              << (info->ready() ? "" : " (" + info->not_ready_reason() + ")") << std::endl;
  inference::v1::ChatPrompt chat = NewConversation(options);
  std::string line;
  while (!base::StopRequested()) {
    if (tty) std::cerr << "> " << std::flush;
    if (!std::getline(std::cin, line)) break;
    if (line.empty()) {
      chat = NewConversation(options);
      continue;
    }
    AddMessage("user", line, &chat);
    const absl::Status status = Answer(&client, options, &chat);
    if (status.ok() || base::StopRequested()) continue;
    std::cerr << kName << ": " << status.ToString() << std::endl;
    if (!tty) return base::kExitFailed;
    chat.mutable_messages()->RemoveLast();
  }
  return 0;
}

}  // namespace

int RunChat(int argc, char** argv) {
  CLI::App app("Talks to a cluster.", kName);
  ChatOptions options;
  AddOptions(app, &options);
  base::AddStandardOptions(app, kExamples);
  if (const int code = base::ParseOrExitCode(app, argc, argv); code >= 0) return code;
  base::InstallStopSignals();
  return Talk(options);
}

}  // namespace tandem::launcher
