// The expert transport against real gRPC servers in this process: answers, refusals, late answers,
// peers that die, hang or come back.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/rpc/grpc_server.h"
#include "lib/rpc/tensor_frame.h"
#include "lib/rpc/transport.h"
#include "proto/experts.grpc.pb.h"

namespace tandem::rpc {
namespace {

using experts::v1::ExpertRows;
using experts::v1::ExpertSums;
using testing::HasSubstr;
using Result = absl::StatusOr<Answer>;

// What the server does with a call is written in its layer: 0 echo, 1 refuse, 2 keep silent, 3
// answer twice, 4 answer to a call never made first, 5 end the stream, 6 answer after 200 ms.
class ScriptedExperts final : public experts::v1::Experts::Service {
 public:
  grpc::Status Run(grpc::ServerContext* context,
                   grpc::ServerReaderWriter<ExpertSums, ExpertRows>* stream) override {
    ++streams;
    ExpertRows rows;
    while (stream->Read(&rows)) {
      ++calls;
      ExpertSums sums;
      sums.set_call_id(rows.call_id());
      sums.set_epoch(rows.epoch());
      *sums.mutable_sums() = rows.x();
      if (rows.layer() == 5) return grpc::Status(grpc::StatusCode::INTERNAL, "script says so");
      Answer(rows, &sums, stream);
    }
    return grpc::Status::OK;
  }

  std::atomic<int> streams{0};
  std::atomic<int> calls{0};

 private:
  static void Answer(const ExpertRows& rows, ExpertSums* sums,
                     grpc::ServerReaderWriter<ExpertSums, ExpertRows>* stream) {
    switch (rows.layer()) {
      case 1:
        sums->set_status_code(static_cast<int>(absl::StatusCode::kFailedPrecondition));
        sums->set_status_message("expert 7 is not here");
        break;
      case 2:
        return;
      case 3:
        stream->Write(*sums);
        break;
      case 4: {
        ExpertSums stray = *sums;
        stray.set_call_id(rows.call_id() + 1000);
        stream->Write(stray);
        break;
      }
      case 6:
        absl::SleepFor(absl::Milliseconds(200));
        break;
    }
    stream->Write(*sums);
  }
};

ExpertRows Rows(uint32_t layer, uint32_t value = 0) {
  ExpertRows rows;
  rows.set_layer(layer);
  rows.set_epoch(3);
  const uint32_t data[2] = {value, value + 1};
  WritePayload(tensor::v1::WIRE_DTYPE_I32, 1, 2, data, rows.mutable_x());
  return rows;
}

uint32_t FirstValue(const Answer& answer) {
  uint32_t value = 0;
  memcpy(&value, answer.sums.data, sizeof value);
  return value;
}

void Call(Transport& transport, const ExpertRows& rows, absl::Duration timeout,
          Transport::Done done) {
  std::vector<const std::byte*> pointers;
  transport.Call(OutgoingOf(rows, &pointers).value(), timeout, std::move(done));
}

// Waits for one call; fails the test when `done` does not come in time.
Result CallAndWait(Transport& transport, const ExpertRows& rows,
                   absl::Duration timeout = absl::Seconds(10)) {
  auto promise = std::make_shared<std::promise<Result>>();
  std::future<Result> future = promise->get_future();
  Call(transport, rows, timeout,
       [promise](Result result) { promise->set_value(std::move(result)); });
  if (future.wait_for(absl::ToChronoSeconds(timeout + absl::Seconds(5))) !=
      std::future_status::ready) {
    ADD_FAILURE() << "done was never called";
    return absl::UnknownError("never called");
  }
  return future.get();
}

struct Peer {
  explicit Peer(const std::string& listen = "127.0.0.1:0") {
    auto started = GrpcServer::Start(listen, {&service});
    EXPECT_TRUE(started.ok()) << started.status();
    server = *std::move(started);
  }
  ScriptedExperts service;
  std::unique_ptr<GrpcServer> server;
};

TEST(GrpcTransportTest, AnswersAreMatchedByCallId) {
  Peer peer;
  auto transport = MakeGrpcTransport(peer.server->address());
  std::mutex mutex;
  std::map<uint32_t, uint32_t> got;
  std::promise<void> all;
  constexpr int kCalls = 200;
  for (uint32_t i = 0; i < kCalls; ++i) {
    Call(*transport, Rows(0, i * 10), absl::Seconds(20), [&, i](Result result) {
      ASSERT_TRUE(result.ok()) << result.status();
      std::lock_guard lock(mutex);
      got[i] = FirstValue(*result);
      if (got.size() == kCalls) all.set_value();
    });
  }
  ASSERT_EQ(all.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready);
  for (uint32_t i = 0; i < kCalls; ++i) EXPECT_EQ(got[i], i * 10);
  EXPECT_EQ(peer.service.streams, 1);
}

TEST(GrpcTransportTest, LargeFramesPass) {
  Peer peer;
  auto transport = MakeGrpcTransport(peer.server->address());
  ExpertRows rows = Rows(0);
  const std::string payload(size_t{512} * 7168 * 4,
                            'x');  // a prefill chunk of the largest model, int32
  rows.mutable_x()->set_rows(512);
  rows.mutable_x()->set_cols(7168);
  rows.mutable_x()->set_data(payload);
  const Result result = CallAndWait(*transport, rows, absl::Seconds(30));
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(uint64_t{result->sums.rows} * result->sums.cols * 4, payload.size());
  EXPECT_EQ(std::memcmp(result->sums.data, payload.data(), payload.size()), 0);
}

TEST(GrpcTransportTest, RefusalBecomesAStatusWithTheAddress) {
  Peer peer;
  auto transport = MakeGrpcTransport(peer.server->address());
  const Result result = CallAndWait(*transport, Rows(1));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("expert 7 is not here"));
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(peer.server->address()));
}

TEST(GrpcTransportTest, SilenceIsDeadlineExceededInTime) {
  Peer peer;
  auto transport = MakeGrpcTransport(peer.server->address());
  ASSERT_TRUE(CallAndWait(*transport, Rows(0)).ok());
  const absl::Time before = absl::Now();
  const Result result = CallAndWait(*transport, Rows(2), absl::Milliseconds(150));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_GE(absl::Now() - before, absl::Milliseconds(149));
  EXPECT_LT(absl::Now() - before, absl::Seconds(2));
  // Others on the stream are not harmed, and a shorter timeout than the one waited for is kept too.
  EXPECT_TRUE(CallAndWait(*transport, Rows(0)).ok());
  EXPECT_EQ(peer.service.streams, 1);
}

TEST(GrpcTransportTest, ZeroTimeoutEndsAtOnce) {
  Peer peer;
  auto transport = MakeGrpcTransport(peer.server->address());
  EXPECT_EQ(CallAndWait(*transport, Rows(0), absl::ZeroDuration()).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(peer.service.calls, 0);
}

TEST(GrpcTransportTest, LateDoubleAndStrayAnswersAreDropped) {
  Peer peer;
  auto transport = MakeGrpcTransport(peer.server->address());
  EXPECT_EQ(CallAndWait(*transport, Rows(6), absl::Milliseconds(50)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(FirstValue(*CallAndWait(*transport, Rows(3, 11))), 11u);
  EXPECT_EQ(FirstValue(*CallAndWait(*transport, Rows(4, 12))), 12u);
  EXPECT_EQ(FirstValue(*CallAndWait(*transport, Rows(0, 13))), 13u);
}

TEST(GrpcTransportTest, StreamEndFailsAllPendingCallsAndTheNextOpensANewOne) {
  Peer peer;
  auto transport = MakeGrpcTransport(peer.server->address());
  std::vector<std::future<Result>> silent;
  for (int i = 0; i < 5; ++i) {
    auto promise = std::make_shared<std::promise<Result>>();
    silent.push_back(promise->get_future());
    Call(*transport, Rows(2), absl::Seconds(30),
         [promise](Result r) { promise->set_value(std::move(r)); });
  }
  const Result ended = CallAndWait(*transport, Rows(5));
  EXPECT_EQ(ended.status().code(), absl::StatusCode::kUnavailable);
  for (auto& future : silent) {
    ASSERT_EQ(future.wait_for(std::chrono::seconds(5)), std::future_status::ready);
    const Result result = future.get();
    EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(peer.server->address()));
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("script says so"));
  }
  EXPECT_TRUE(CallAndWait(*transport, Rows(0)).ok());
  EXPECT_EQ(peer.service.streams, 2);
}

TEST(GrpcTransportTest, NobodyListeningIsUnavailableSoon) {
  auto unused = std::make_unique<Peer>();
  const std::string address = unused->server->address();
  unused.reset();
  auto transport = MakeGrpcTransport(address);
  const absl::Time before = absl::Now();
  const Result result = CallAndWait(*transport, Rows(0), absl::Seconds(20));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(address));
  EXPECT_LT(absl::Now() - before, absl::Seconds(5));
}

TEST(GrpcTransportTest, PeerDiesAndComesBackOnTheSameAddress) {
  auto peer = std::make_unique<Peer>();
  const std::string address = peer->server->address();
  auto transport = MakeGrpcTransport(address);
  ASSERT_TRUE(CallAndWait(*transport, Rows(0)).ok());
  peer.reset();
  EXPECT_EQ(CallAndWait(*transport, Rows(0)).status().code(), absl::StatusCode::kUnavailable);
  peer = std::make_unique<Peer>(address);
  const absl::Time back = absl::Now();
  Result result = absl::UnknownError("not tried");
  while (!result.ok() && absl::Now() - back < absl::Seconds(10)) {
    result = CallAndWait(*transport, Rows(0));
    if (!result.ok()) absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_TRUE(result.ok()) << result.status();
  EXPECT_LT(absl::Now() - back, absl::Seconds(3));
}

TEST(GrpcTransportTest, DestructionCancelsPendingCallsOnce) {
  Peer peer;
  std::atomic<int> cancelled{0}, other{0};
  {
    auto transport = MakeGrpcTransport(peer.server->address());
    ASSERT_TRUE(CallAndWait(*transport, Rows(0)).ok());
    for (int i = 0; i < 10; ++i) {
      Call(*transport, Rows(2), absl::Seconds(30), [&](Result result) {
        ++(result.status().code() == absl::StatusCode::kCancelled ? cancelled : other);
      });
    }
  }
  EXPECT_EQ(cancelled, 10);
  EXPECT_EQ(other, 0);
}

TEST(GrpcTransportTest, EveryCallEndsExactlyOnceWhateverHappens) {
  auto peer = std::make_unique<Peer>();
  const std::string address = peer->server->address();
  std::atomic<int> started{0}, ended{0};
  {
    auto transport = MakeGrpcTransport(address);
    std::vector<std::thread> callers;
    for (int t = 0; t < 3; ++t) {
      callers.emplace_back([&, t] {
        for (uint32_t i = 0; i < 300; ++i) {
          // Every kind of behaviour, the stream's end included, with timeouts around the slow
          // answer's 200 ms.
          const uint32_t layer = (i * 7 + t) % 50 < 6 ? (i * 7 + t) % 50 : 0;
          ++started;
          Call(*transport, Rows(layer), absl::Milliseconds(1 + i % 250), [&](Result) { ++ended; });
          if (i % 16 == 0) absl::SleepFor(absl::Milliseconds(2));
        }
      });
    }
    absl::SleepFor(absl::Milliseconds(20));
    peer.reset();
    peer = std::make_unique<Peer>(address);
    for (std::thread& caller : callers) caller.join();
  }
  EXPECT_EQ(started, 900);
  EXPECT_EQ(ended, 900);
}

}  // namespace
}  // namespace tandem::rpc
