// The client half of the eval client against a real gRPC server that misbehaves on request.
#include "eval_client/client/grpc_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/time/clock.h"
#include "tests/eval/fake_inference.h"

namespace tandem::eval {
namespace {

using Request = inference::v1::GenerateRequest;
using Writer = FakeInference::Writer;

AskOptions QuickOptions() {
  AskOptions options;
  options.timeout = absl::Seconds(20);
  options.retry = {
      .attempts_max = 4, .first_wait = absl::Milliseconds(5), .wait_max = absl::Milliseconds(20)};
  return options;
}

TEST(GrpcClient, SendsTheQuestionAndJoinsTheChunks) {
  FakeInference server([](const Request&, int, grpc::ServerContext*, Writer* writer) {
    inference::v1::GenerateChunk chunk;
    chunk.set_text("The answer");
    writer->Write(chunk);
    return FakeInference::Say(" is B", writer, inference::v1::FINISH_REASON_LENGTH);
  });
  GrpcClient client(server.address());
  AskOptions options = QuickOptions();
  options.temperature = 0.25f;
  options.max_tokens = 7;
  const Answer answer = client.Ask("id-1", "What?", 99, options);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.text, "The answer is B");
  EXPECT_EQ(answer.finish, Finish::kLength);
  EXPECT_EQ(answer.prompt_tokens, 90u);
  EXPECT_EQ(answer.completion_tokens, 2u);
  EXPECT_EQ(answer.total_us, 1500u);
  EXPECT_EQ(answer.attempts, 1);
  const Request seen = server.seen().at(0);
  EXPECT_EQ(seen.request_id(), "id-1");
  ASSERT_EQ(seen.chat().messages_size(), 1);
  EXPECT_EQ(seen.chat().messages(0).role(), "user");
  EXPECT_EQ(seen.chat().messages(0).content(), "What?");
  EXPECT_FLOAT_EQ(seen.sampling().temperature(), 0.25f);
  EXPECT_EQ(seen.sampling().seed(), 99u);
  EXPECT_EQ(seen.max_tokens(), 7u);
}

TEST(GrpcClient, SendsTextToContinueAndStopStrings) {
  FakeInference server([](const Request&, int, grpc::ServerContext*, Writer* writer) {
    return FakeInference::Say(" 4", writer);
  });
  GrpcClient client(server.address());
  AskOptions options = QuickOptions();
  options.continue_text = true;
  options.stop = {"Question:", "\n\n"};
  ASSERT_TRUE(client.Ask("id-1", "2 + 2 =", 99, options).status.ok());
  const Request seen = server.seen().at(0);
  EXPECT_EQ(seen.text(), "2 + 2 =");
  ASSERT_EQ(seen.stop_size(), 2);
  EXPECT_EQ(seen.stop(1), "\n\n");
}

TEST(GrpcClient, TriesAgainWhenTheServerIsFullOrAway) {
  FakeInference server([](const Request&, int attempt, grpc::ServerContext*, Writer* writer) {
    if (attempt == 1) return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full");
    if (attempt == 2) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "restarting");
    return FakeInference::Say("A", writer);
  });
  GrpcClient client(server.address());
  const Answer answer = client.Ask("id", "?", 1, QuickOptions());
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.text, "A");
  EXPECT_EQ(answer.attempts, 3);
}

TEST(GrpcClient, ABrokenAnswerLeavesNoTextBehind) {
  FakeInference server([](const Request&, int attempt, grpc::ServerContext*, Writer* writer) {
    if (attempt > 1) return FakeInference::Say("A", writer);
    inference::v1::GenerateChunk chunk;
    chunk.set_text("half an ans");
    writer->Write(chunk);
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "worker lost");
  });
  GrpcClient client(server.address());
  EXPECT_EQ(client.Ask("id", "?", 1, QuickOptions()).text, "A");
}

TEST(GrpcClient, GivesUpAfterItsAttempts) {
  FakeInference server([](const Request&, int, grpc::ServerContext*, Writer*) {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "still away");
  });
  GrpcClient client(server.address());
  const Answer answer = client.Ask("id", "?", 1, QuickOptions());
  EXPECT_EQ(answer.status, absl::UnavailableError("still away"));
  EXPECT_EQ(answer.attempts, 4);
  EXPECT_EQ(server.requests(), 4);
}

TEST(GrpcClient, OtherErrorsAreFinal) {
  FakeInference server([](const Request&, int, grpc::ServerContext*, Writer*) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "too long");
  });
  GrpcClient client(server.address());
  EXPECT_EQ(client.Ask("id", "?", 1, QuickOptions()).status,
            absl::InvalidArgumentError("too long"));
  EXPECT_EQ(server.requests(), 1);
}

TEST(GrpcClient, AnAnswerMustEndProperly) {
  FakeInference server([](const Request&, int, grpc::ServerContext*, Writer* writer) {
    inference::v1::GenerateChunk chunk;
    chunk.set_text("A");
    writer->Write(chunk);
    return grpc::Status::OK;
  });
  GrpcClient client(server.address());
  const Answer answer = client.Ask("id", "?", 1, QuickOptions());
  EXPECT_TRUE(absl::IsInternal(answer.status)) << answer.status;
  EXPECT_EQ(answer.text, "");
}

TEST(GrpcClient, TheDeadlineHoldsForASilentServer) {
  FakeInference server([](const Request&, int, grpc::ServerContext* context, Writer*) {
    return FakeInference::Hang(context);
  });
  GrpcClient client(server.address());
  AskOptions options = QuickOptions();
  options.timeout = absl::Milliseconds(300);
  const Answer answer = client.Ask("id", "?", 1, options);
  EXPECT_TRUE(absl::IsDeadlineExceeded(answer.status)) << answer.status;
  EXPECT_GE(answer.wall, absl::Milliseconds(290));
  EXPECT_LT(answer.wall, absl::Seconds(10));
}

TEST(GrpcClient, CancelAllEndsRunningCallsAndWaits) {
  FakeInference server([](const Request& request, int, grpc::ServerContext* context, Writer*) {
    if (request.request_id() == "waits") return grpc::Status(grpc::StatusCode::UNAVAILABLE, "");
    return FakeInference::Hang(context);
  });
  GrpcClient client(server.address());
  AskOptions patient = QuickOptions();
  patient.retry.first_wait = patient.retry.wait_max = absl::Seconds(15);
  Answer hanging, waiting;
  std::thread first([&] { hanging = client.Ask("hangs", "?", 1, patient); });
  std::thread second([&] { waiting = client.Ask("waits", "?", 1, patient); });
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (server.requests() < 2 && absl::Now() < end) absl::SleepFor(absl::Milliseconds(5));
  const absl::Time start = absl::Now();
  client.CancelAll();
  first.join();
  second.join();
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_TRUE(absl::IsCancelled(hanging.status)) << hanging.status;
  EXPECT_TRUE(absl::IsCancelled(waiting.status)) << waiting.status;
  EXPECT_TRUE(absl::IsCancelled(client.Ask("later", "?", 1, patient).status));
}

TEST(GrpcClient, ASilentPortIsUnavailable) {
  std::string address;
  {
    FakeInference gone(
        [](const Request&, int, grpc::ServerContext*, Writer*) { return grpc::Status::OK; });
    address = gone.address();
  }
  GrpcClient client(address);
  EXPECT_TRUE(absl::IsUnavailable(client.GetModelInfo(absl::Seconds(5)).status()));
}

TEST(GrpcClient, ReadsTheModelInfo) {
  FakeInference server(
      [](const Request&, int, grpc::ServerContext*, Writer*) { return grpc::Status::OK; });
  GrpcClient client(server.address());
  const auto info = client.GetModelInfo(absl::Seconds(5));
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->name(), "fake");
  EXPECT_TRUE(info->ready());
}

}  // namespace
}  // namespace tandem::eval
