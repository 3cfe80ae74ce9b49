// The shared-memory transport: both ends of the project against each other, and each against a peer
// that breaks the rules.
#include "lib/rpc/shm_transport.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <atomic>
#include <cstring>
#include <future>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/rpc/grpc_server.h"
#include "lib/rpc/shm_connection.h"
#include "lib/rpc/shm_frame.h"
#include "lib/rpc/shm_server.h"
#include "lib/rpc/shm_socket.h"
#include "proto/experts.grpc.pb.h"

namespace tandem::rpc {
namespace {

using testing::HasSubstr;
using Result = absl::StatusOr<Answer>;

// A name no other test uses; there is no port behind it.
std::string FreshAddress() {
  static std::atomic<int> count{0};
  return absl::StrCat("shm-test-", ::getpid(), ":", ++count);
}

// What the worker does with a call is written in its layer: 0 echo, 1 refuse, 2 keep silent,
// 6 answer after 200 ms.
class ScriptedWorker {
 public:
  explicit ScriptedWorker(const std::string& address) {
    wake_ = *WakeSet::Make();
    auto server = ShmServer::Start({.address = address, .connections_max = 4}, wake_);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    thread_ = std::thread([this] { Serve(); });
  }
  ~ScriptedWorker() {
    stopping_ = true;
    wake_->Notify();
    thread_.join();
    kept_.clear();
    server_.reset();
  }

  std::atomic<int> calls{0};
  std::atomic<int> wake_ups{0};

 private:
  void Serve() {
    while (!stopping_) {
      std::vector<ShmCall> taken;
      server_->Poll(64, [&](ShmCall call) { taken.push_back(std::move(call)); });
      for (ShmCall& call : taken) Answer(std::move(call));
      if (!taken.empty()) continue;
      if (server_->AnnounceSleep() && !stopping_) {
        wake_->Wait(absl::Seconds(1), [this](uint64_t tag) { server_->OnEvent(tag); });
        ++wake_ups;
      }
      server_->AnnounceAwake();
    }
  }

  void Answer(ShmCall call) {
    ++calls;
    const PayloadView& x = call.call->x;
    switch (call.call->layer) {
      case 1:
        return call.reply.send(
            {.epoch = 0, .status = absl::FailedPreconditionError("expert 7 is not here")});
      case 2:
        kept_.push_back(std::move(call));
        return;
      case 6:
        absl::SleepFor(absl::Milliseconds(200));
        break;
    }
    const ReplySpace space = call.reply.space(x.dtype, x.rows, x.cols, 1);
    if (space.row_flags == nullptr) {
      return call.reply.send(
          {.epoch = 0, .status = absl::ResourceExhaustedError("no room for an answer")});
    }
    EXPECT_EQ(reinterpret_cast<uintptr_t>(space.sums) % 16, 0u);
    EXPECT_EQ(*space.row_flags, 0);
    std::memcpy(space.sums, x.data, size_t{x.rows} * x.cols * WireDTypeBytes(x.dtype));
    call.reply.send(
        {.epoch = call.call->epoch, .status = absl::OkStatus(), .queue_us = 5, .compute_ns = 7000});
  }

  std::shared_ptr<WakeSet> wake_;
  std::unique_ptr<ShmServer> server_;
  std::atomic<bool> stopping_{false};
  std::vector<ShmCall> kept_;  // calls without an answer
  std::thread thread_;
};

// A call with everything it points to.
struct TestCall {
  explicit TestCall(uint32_t layer, uint32_t value = 0, uint32_t row_count = 1, uint32_t cols = 2)
      : data(size_t{row_count} * cols, value),
        experts_per_row(row_count, 1),
        ids(row_count, 3),
        weights(row_count, 0.5f),
        exponents(row_count, -9) {
    for (uint32_t r = 0; r < row_count; ++r) {
      rows.push_back(reinterpret_cast<const std::byte*>(data.data() + size_t{r} * cols));
    }
    call.epoch = 3;
    call.model_digest = "digest";
    call.layer = layer;
    call.reply_form = experts::v1::REPLY_FORM_GRID_SUM;
    call.dtype = tensor::v1::WIRE_DTYPE_I32;
    call.cols = cols;
    call.rows = rows;
    call.experts_per_row = experts_per_row;
    call.expert_ids = ids;
    call.expert_weights = weights;
    call.grid_exponents = exponents;
  }
  std::vector<uint32_t> data;
  std::vector<const std::byte*> rows;
  std::vector<uint32_t> experts_per_row, ids;
  std::vector<float> weights;
  std::vector<int32_t> exponents;
  OutgoingCall call;
};

uint32_t FirstValue(const Answer& answer) {
  uint32_t value = 0;
  std::memcpy(&value, answer.sums.data, sizeof value);
  return value;
}

std::future<Result> CallLater(Transport& transport, const TestCall& call, absl::Duration timeout) {
  auto promise = std::make_shared<std::promise<Result>>();
  std::future<Result> future = promise->get_future();
  transport.Call(call.call, timeout,
                 [promise](Result result) { promise->set_value(std::move(result)); });
  return future;
}

Result Await(std::future<Result> future, absl::Duration wait_max = absl::Seconds(15)) {
  if (future.wait_for(absl::ToChronoMilliseconds(wait_max)) != std::future_status::ready) {
    ADD_FAILURE() << "done was never called";
    return absl::UnknownError("never called");
  }
  return future.get();
}

Result CallAndWait(Transport& transport, const TestCall& call,
                   absl::Duration timeout = absl::Seconds(10)) {
  return Await(CallLater(transport, call, timeout));
}

TEST(ShmTransportTest, EchoWithoutAndWithPolling) {
  const std::string address = FreshAddress();
  ScriptedWorker worker(address);
  auto transport = ShmTransport::Make(address);
  ASSERT_TRUE(transport->Attach().ok());
  for (uint32_t i = 0; i < 600; ++i) {  // more than there are slots
    const Result result = CallAndWait(*transport, TestCall(0, i));
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(FirstValue(*result), i);
    ASSERT_EQ(result->epoch, 3u);
    ASSERT_EQ(result->compute_ns, 7000u);
    ASSERT_EQ(result->row_flags.size(), 1u);
  }
  transport->StartPolling();
  for (uint32_t i = 0; i < 600; ++i) {
    std::future<Result> future = CallLater(*transport, TestCall(0, i), absl::Seconds(10));
    const absl::Time end = absl::Now() + absl::Seconds(10);
    while (!transport->Poll()) ASSERT_LT(absl::Now(), end);
    const Result result = Await(std::move(future));
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(FirstValue(*result), i);
  }
  // An answer that nobody polled for any more comes through the sleeper.
  std::future<Result> late = CallLater(*transport, TestCall(6, 77), absl::Seconds(10));
  transport->StopPolling();
  const Result result = Await(std::move(late));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(FirstValue(*result), 77u);
}

TEST(ShmTransportTest, ManyCallsAtOnceFromSeveralCallers) {
  const std::string address = FreshAddress();
  ScriptedWorker worker(address);
  std::vector<std::thread> callers;
  for (uint32_t c = 0; c < 3; ++c) {
    callers.emplace_back([&, c] {
      auto transport = ShmTransport::Make(address);
      for (uint32_t round = 0; round < 20; ++round) {
        std::vector<std::future<Result>> futures;
        for (uint32_t i = 0; i < 50; ++i) {
          futures.push_back(
              CallLater(*transport, TestCall(0, c * 1000 + i, 1 + i % 7, 300), absl::Seconds(20)));
        }
        for (uint32_t i = 0; i < 50; ++i) {
          const Result result = Await(std::move(futures[i]), absl::Seconds(25));
          ASSERT_TRUE(result.ok()) << result.status();
          ASSERT_EQ(FirstValue(*result), c * 1000 + i);
          ASSERT_EQ(result->sums.rows, 1 + i % 7);
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(worker.calls, 3 * 20 * 50);
}

TEST(ShmTransportTest, RefusalBecomesAStatusWithTheAddress) {
  const std::string address = FreshAddress();
  ScriptedWorker worker(address);
  auto transport = ShmTransport::Make(address);
  const Result result = CallAndWait(*transport, TestCall(1));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("expert 7 is not here"));
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(address));
}

TEST(ShmTransportTest, SilenceIsDeadlineExceededAndLateAnswersAreDropped) {
  const std::string address = FreshAddress();
  ScriptedWorker worker(address);
  auto transport = ShmTransport::Make(address);
  EXPECT_EQ(CallAndWait(*transport, TestCall(0), absl::ZeroDuration()).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(worker.calls, 0);
  const absl::Time before = absl::Now();
  const Result result = CallAndWait(*transport, TestCall(2), absl::Milliseconds(150));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_GE(absl::Now() - before, absl::Milliseconds(149));
  EXPECT_LT(absl::Now() - before, absl::Seconds(2));
  EXPECT_EQ(CallAndWait(*transport, TestCall(6, 1), absl::Milliseconds(50)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(FirstValue(*CallAndWait(*transport, TestCall(0, 13))), 13u);
}

TEST(ShmTransportTest, NobodyThereIsUnavailable) {
  auto transport = ShmTransport::Make(FreshAddress());
  EXPECT_TRUE(absl::IsUnavailable(transport->Attach()));
  EXPECT_EQ(CallAndWait(*transport, TestCall(0)).status().code(), absl::StatusCode::kUnavailable);
}

TEST(ShmTransportTest, AWorkerThatGoesEndsItsCallsAtOnceAndMayComeBack) {
  const std::string address = FreshAddress();
  auto worker = std::make_unique<ScriptedWorker>(address);
  auto transport = ShmTransport::Make(address);
  std::vector<std::future<Result>> silent;
  for (int i = 0; i < 5; ++i) {
    silent.push_back(CallLater(*transport, TestCall(2), absl::Seconds(60)));
  }
  ASSERT_TRUE(CallAndWait(*transport, TestCall(0)).ok());
  worker.reset();
  for (auto& future : silent) {
    const Result result = Await(std::move(future), absl::Seconds(5));
    EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable) << result.status();
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(address));
  }
  EXPECT_EQ(CallAndWait(*transport, TestCall(0)).status().code(), absl::StatusCode::kUnavailable);
  worker = std::make_unique<ScriptedWorker>(address);
  EXPECT_TRUE(CallAndWait(*transport, TestCall(0)).ok());
}

TEST(ShmTransportTest, DestructionCancelsPendingCallsOnceAndAnswersOutliveIt) {
  const std::string address = FreshAddress();
  ScriptedWorker worker(address);
  std::atomic<int> cancelled{0}, other{0};
  Result kept;
  {
    auto transport = ShmTransport::Make(address);
    kept = CallAndWait(*transport, TestCall(0, 42));
    for (int i = 0; i < 10; ++i) {
      transport->Call(TestCall(2).call, absl::Seconds(30), [&](Result result) {
        ++(result.status().code() == absl::StatusCode::kCancelled ? cancelled : other);
      });
    }
  }
  EXPECT_EQ(cancelled, 10);
  EXPECT_EQ(other, 0);
  ASSERT_TRUE(kept.ok());
  EXPECT_EQ(FirstValue(*kept), 42u);
}

TEST(ShmTransportTest, FullAndTooLargeAreRefused) {
  const std::string address = FreshAddress();
  ScriptedWorker worker(address);
  auto transport = ShmTransport::Make(address);
  const TestCall large(0, 5, 600, 7168);  // 17 MiB
  const Result whole = CallAndWait(*transport, large);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(std::memcmp(whole->sums.data, large.data.data(), large.data.size() * 4), 0);
  std::vector<std::future<Result>> kept;
  for (int i = 0; i < 3; ++i) {
    kept.push_back(CallLater(*transport, TestCall(2, 0, 600, 7168), absl::Seconds(2)));
  }
  EXPECT_EQ(CallAndWait(*transport, TestCall(2, 0, 600, 7168)).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(CallAndWait(*transport, TestCall(0)).ok()) << "a small one still fits";
  const TestCall huge(0, 5, 3000, 7168);  // 82 MiB
  EXPECT_FALSE(transport->Fits(huge.call));
  EXPECT_EQ(CallAndWait(*transport, huge).status().code(), absl::StatusCode::kResourceExhausted);
  for (auto& future : kept) {
    EXPECT_EQ(Await(std::move(future)).status().code(), absl::StatusCode::kDeadlineExceeded);
  }
}

TEST(ShmTransportTest, EveryCallEndsExactlyOnceWhateverHappens) {
  const std::string address = FreshAddress();
  auto worker = std::make_unique<ScriptedWorker>(address);
  std::atomic<int> started{0}, ended{0};
  {
    auto transport = ShmTransport::Make(address);
    std::vector<std::thread> callers;
    for (int t = 0; t < 3; ++t) {
      callers.emplace_back([&, t] {
        for (uint32_t i = 0; i < 300; ++i) {
          const uint32_t layer = (i * 7 + t) % 100 < 3 ? (i * 7 + t) % 100 : 0;
          ++started;
          if (t == 0) transport->StartPolling();
          transport->Call(TestCall(layer).call, absl::Milliseconds(1 + i % 250),
                          [&](Result) { ++ended; });
          if (t == 0) {
            transport->Poll();
            transport->StopPolling();
          }
          if (i % 16 == 0) absl::SleepFor(absl::Milliseconds(2));
        }
      });
    }
    absl::SleepFor(absl::Milliseconds(10));
    worker.reset();
    worker = std::make_unique<ScriptedWorker>(address);
    for (std::thread& caller : callers) caller.join();
  }
  EXPECT_EQ(started, 900);
  EXPECT_EQ(ended, 900);
}

TEST(ShmTransportTest, IdleConnectionsUseNoProcessor) {
  const std::string address = FreshAddress();
  ScriptedWorker worker(address);
  auto transport = ShmTransport::Make(address);
  ASSERT_TRUE(CallAndWait(*transport, TestCall(0)).ok());
  const auto cpu_seconds = [] {
    rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
  };
  const double before = cpu_seconds();
  const int wake_ups = worker.wake_ups;
  absl::SleepFor(absl::Seconds(1));
  EXPECT_LT(cpu_seconds() - before, 0.02);
  EXPECT_LE(worker.wake_ups - wake_ups, 2);
}

// A caller that breaks the rules, by hand.
struct Intruder {
  explicit Intruder(const std::string& address)
      : socket(*ConnectShm(address)), hello(*ReceiveHello(socket, absl::Seconds(5))) {
    region = *ShmRegion::Open(std::move(hello.memory), kShmRegionBytes);
  }
  bool HungUp() {
    const absl::Time end = absl::Now() + absl::Seconds(5);
    while (absl::Now() < end) {
      if (!SilenceBell(socket)) return true;
      absl::SleepFor(absl::Milliseconds(1));
    }
    return false;
  }
  UniqueFd socket;
  ReceivedHello hello;
  std::unique_ptr<ShmRegion> region;
};

TEST(ShmServerTest, NonsenseEndsThatConnectionAlone) {
  const std::string address = FreshAddress();
  ScriptedWorker worker(address);
  auto good = ShmTransport::Make(address);
  ASSERT_TRUE(CallAndWait(*good, TestCall(0)).ok());
  std::mt19937_64 random(11);
  for (int i = 0; i < 60; ++i) {
    Intruder intruder(address);
    const ShmLayout layout(intruder.region->data());
    for (int k = 0; k < 400; ++k) {
      const uint64_t word = i % 2 == 0 ? random() : random() % 200;
      std::memcpy(layout.call_arena + k * 8, &word, sizeof word);
    }
    RingSlot& slot = layout.calls->slots[0];
    slot.offset_bytes = i % 3 == 0 ? random() : 0;
    slot.frame_bytes = i % 3 == 1 ? random() : random() % 3000;
    slot.published = 1;
    RingBell(intruder.socket);
    EXPECT_TRUE(intruder.HungUp()) << "round " << i;
    ASSERT_TRUE(CallAndWait(*good, TestCall(0)).ok());
  }
}

TEST(ShmServerTest, CallersHaveALimitAndGiveTheirPlaceBack) {
  const std::string address = FreshAddress();
  ScriptedWorker worker(address);
  std::vector<std::unique_ptr<ShmTransport>> callers;
  for (int i = 0; i < 4; ++i) {
    callers.push_back(ShmTransport::Make(address));
    ASSERT_TRUE(CallAndWait(*callers.back(), TestCall(0)).ok());
  }
  EXPECT_FALSE(ShmTransport::Make(address)->Attach().ok());
  callers.clear();
  const absl::Time end = absl::Now() + absl::Seconds(10);
  absl::Status status;
  do {
    status = ShmTransport::Make(address)->Attach();
  } while (!status.ok() && absl::Now() < end);
  EXPECT_TRUE(status.ok()) << status;
}

// A worker that breaks the rules: greets with `memory` and `hello`, then writes `answer`.
class LyingWorker {
 public:
  LyingWorker(const std::string& address, ShmHello hello, int memory_fd)
      : listener_(*ListenForShm(address)), thread_([this, hello, memory_fd] {
          while (!stopping_) {
            auto accepted = AcceptShm(listener_);
            if (!accepted.ok()) {
              absl::SleepFor(absl::Milliseconds(1));
              continue;
            }
            socket = *std::move(accepted);
            if (memory_fd >= 0) (void)SendHello(socket, hello, memory_fd);
          }
        }) {}
  ~LyingWorker() {
    stopping_ = true;
    thread_.join();
  }
  UniqueFd socket;

 private:
  UniqueFd listener_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

TEST(ShmTransportTest, AWorkerWithBadMemoryIsNotUsed) {
  const auto region = *ShmRegion::Create(kShmRegionBytes);
  const auto small = *ShmRegion::Create(4096);
  const UniqueFd unsealed(::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(unsealed.get(), kShmRegionBytes), 0);
  const struct {
    uint32_t version;
    bool own_address;
    int fd;
    const char* why;
  } cases[] = {{kShmLayoutVersion + 1, true, region->fd(), "layout"},
               {kShmLayoutVersion, false, region->fd(), "expected worker"},
               {kShmLayoutVersion, true, small->fd(), "bytes"},
               {kShmLayoutVersion, true, unsealed.get(), "sealed"},
               {kShmLayoutVersion, true, -1, "no greeting"}};
  for (const auto& c : cases) {
    const std::string address = FreshAddress();
    LyingWorker worker(address, {c.version, c.own_address ? address : "another:1"}, c.fd);
    auto transport = ShmTransport::Make(address);
    const absl::Status status = transport->Attach();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(status.ToString(), HasSubstr(c.why));
  }
}

TEST(ShmTransportTest, AnswersThatAreNonsenseEndTheConnection) {
  std::mt19937_64 random(5);
  for (int i = 0; i < 20; ++i) {
    const std::string address = FreshAddress();
    const auto region = *ShmRegion::Create(kShmRegionBytes);
    LyingWorker worker(address, {kShmLayoutVersion, address}, region->fd());
    auto transport = ShmTransport::Make(address);
    std::future<Result> future = CallLater(*transport, TestCall(0), absl::Seconds(30));
    const ShmLayout layout(region->data());
    for (int k = 0; k < 100; ++k) {
      uint64_t word = random() % (i % 2 == 0 ? UINT64_MAX : 300);
      // The seventh word says whether there are sums; a stray answer without any would be fine.
      if (k == 6) word = uint64_t{1} << 32;
      std::memcpy(layout.answer_arena + k * 8, &word, sizeof word);
    }
    RingSlot& slot = layout.answers->slots[0];
    slot.offset_bytes = i % 3 == 0 ? random() : 0;
    slot.frame_bytes = random() % 4000;
    slot.published = 1;
    RingBell(worker.socket);
    EXPECT_EQ(Await(std::move(future)).status().code(), absl::StatusCode::kUnavailable);
  }
}

class EchoService final : public experts::v1::Experts::Service {
 public:
  grpc::Status Run(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<experts::v1::ExpertSums, experts::v1::ExpertRows>* stream) override {
    experts::v1::ExpertRows rows;
    while (stream->Read(&rows)) {
      experts::v1::ExpertSums sums;
      sums.set_call_id(rows.call_id());
      *sums.mutable_sums() = rows.x();
      stream->Write(sums);
    }
    return grpc::Status::OK;
  }
};

TEST(TransportChoiceTest, AutoTakesSharedMemoryWhereItIs) {
  EchoService service;
  const auto server = *GrpcServer::Start("127.0.0.1:0", {&service});
  auto automatic = MakeTransport(server->address(), TransportChoice::kAuto);
  const Result first = CallAndWait(*automatic, TestCall(0, 8));
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_FALSE(first->over_shm);
  auto forced = MakeTransport(server->address(), TransportChoice::kShm);
  EXPECT_EQ(CallAndWait(*forced, TestCall(0)).status().code(), absl::StatusCode::kUnavailable);

  ScriptedWorker worker(server->address());
  const absl::Time end = absl::Now() + absl::Seconds(10);
  bool over_shm = false;
  while (!over_shm && absl::Now() < end) {
    const Result result = CallAndWait(*automatic, TestCall(0, 9));
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(FirstValue(*result), 9u);
    over_shm = result->over_shm;
  }
  EXPECT_TRUE(over_shm);
  EXPECT_TRUE(CallAndWait(*forced, TestCall(0))->over_shm);
  EXPECT_FALSE(CallAndWait(*MakeTransport(server->address(), TransportChoice::kGrpc), TestCall(0))
                   ->over_shm);
  // What does not fit goes the other way: here an answer of one row for each of many experts.
  TestCall huge(0, 4, 1, 7168);
  huge.ids.assign(5000, 3);
  huge.call.expert_ids = huge.ids;
  huge.call.reply_form = experts::v1::REPLY_FORM_PER_EXPERT_F32;
  const Result other = CallAndWait(*automatic, huge);
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_FALSE(other->over_shm);
  EXPECT_EQ(FirstValue(*other), 4u);
}

TEST(TransportChoiceTest, Names) {
  EXPECT_EQ(ParseTransportChoice("shm"), TransportChoice::kShm);
  EXPECT_EQ(ParseTransportChoice("auto"), TransportChoice::kAuto);
  EXPECT_EQ(ParseTransportChoice("grpc"), TransportChoice::kGrpc);
  EXPECT_EQ(ParseTransportChoice("tcp"), std::nullopt);
}

}  // namespace
}  // namespace tandem::rpc
