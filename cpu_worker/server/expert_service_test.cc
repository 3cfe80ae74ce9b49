// The worker's service over real gRPC on loopback, and what it does with hostile input.
#include "cpu_worker/server/expert_service.h"

#include <grpcpp/grpcpp.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "cpu_worker/server/compute_loop.h"
#include "cpu_worker/server/placement_share.h"
#include "gtest/gtest.h"
#include "lib/experts/expert_store.h"
#include "lib/experts/test_model.h"
#include "lib/kernels/expert_grid.h"
#include "lib/model/container_builders.h"
#include "lib/rpc/grpc_server.h"
#include "lib/rpc/tensor_frame.h"
#include "lib/rpc/transport.h"
#include "lib/tensor/codec.h"
#include "proto/experts.grpc.pb.h"

namespace tandem::cpu_worker {
namespace {

using experts::v1::ExpertRows;
using experts::v1::ExpertSums;

constexpr uint64_t kEpoch = 7;

// A store with experts 0..5 of layer 1 and all of layer 2, a compute loop, a service and a server.
class ServiceTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder();
    WriteTestModel(folder_->path() + "/m.gguf", "q4_K_M");
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }

  void SetUp() override {
    auto store = ExpertStore::Open({.model_path = folder_->path() + "/m.gguf",
                                    .load = {},
                                    .memory_bytes_max = 0,
                                    .load_places = {{}}},
                                   kernels::ActiveTable());
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(*store);
    std::set<ExpertKey> keys;
    for (uint32_t e = 0; e < 6; ++e) keys.insert({1, e});
    for (uint32_t e = 0; e < kTestExperts; ++e) keys.insert({2, e});
    ASSERT_TRUE(store_->Place(keys, [] { return true; }).ok());
    StartLoop({});
  }
  void TearDown() override {
    if (server_ != nullptr) server_->Shutdown(absl::Seconds(1));
    server_.reset();
    loop_.reset();
    shm_.reset();
  }

  void StartLoop(ComputeLoop::Options options) {
    TearDown();
    options.store = store_.get();
    options.table = &kernels::ActiveTable();
    options.metrics = &metrics_;
    loop_ = std::make_unique<ComputeLoop>(options);
    loop_->set_epoch(kEpoch);
    service_ = MakeExpertService({.loop = loop_.get(), .describe = [] {
                                    experts::v1::DescribeResponse response;
                                    response.set_worker_id("cpu-test");
                                    return response;
                                  }});
    auto server = rpc::GrpcServer::Start("127.0.0.1:0", {service_.get()});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
    auto shm = rpc::ShmServer::Start({.address = server_->address()}, loop_->wake_set());
    ASSERT_TRUE(shm.ok()) << shm.status();
    shm_ = std::move(*shm);
    loop_->Serve(shm_.get());
  }

  // A good call: `rows` random rows, two experts each.
  ExpertRows GoodCall(int rows, uint32_t layer = 1, uint64_t seed = 1) const {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    std::vector<uint16_t> x(rows * kTestHidden);
    ExpertRows call;
    call.set_call_id(99);
    call.set_epoch(kEpoch);
    call.set_model_digest(store_->digest());
    call.set_layer(layer);
    call.set_deadline_ms(20000);
    call.set_reply_form(experts::v1::REPLY_FORM_GRID_SUM);
    call.set_activation_form(experts::v1::ACTIVATION_FORM_NATIVE);
    for (int r = 0; r < rows; ++r) {
      float largest = 0;
      for (int64_t k = 0; k < kTestHidden; ++k) {
        const float value = normal(random);
        x[r * kTestHidden + k] = F32ToBF16(value);
        largest = std::max(largest, std::abs(value));
      }
      call.add_experts_per_row(2);
      const uint32_t first = random() % 3;
      call.add_expert_ids(first);
      call.add_expert_ids(3 + random() % 3);
      call.add_expert_weights(0.25f);
      call.add_expert_weights(0.5f);
      call.add_grid_exponents(kernels::GridExponent(largest, 1.0f, kTestTopK));
    }
    rpc::WritePayload(tensor::v1::WIRE_DTYPE_BF16, rows, kTestHidden, x.data(), call.mutable_x());
    return call;
  }

  // Straight through the loop, without a network.
  ExpertSums Submit(ExpertRows call) {
    ExpertSums answer;
    absl::Notification done;
    loop_->Submit(std::move(call), [&](ExpertSums sums) {
      answer = std::move(sums);
      done.Notify();
    });
    EXPECT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(30)));
    return answer;
  }

  std::unique_ptr<experts::v1::Experts::Stub> MakeStub() const {
    return experts::v1::Experts::NewStub(
        grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
  }

  static TemporaryFolder* folder_;
  telemetry::Metrics metrics_;
  std::unique_ptr<ExpertStore> store_;
  std::unique_ptr<ComputeLoop> loop_;
  std::shared_ptr<grpc::Service> service_;
  std::unique_ptr<rpc::GrpcServer> server_;
  std::unique_ptr<rpc::ShmServer> shm_;
};

TemporaryFolder* ServiceTest::folder_ = nullptr;

std::vector<int32_t> SumsOf(const rpc::PayloadView& view) {
  std::vector<int32_t> sums(view.rows * view.cols);
  std::memcpy(sums.data(), view.data, sums.size() * sizeof(int32_t));
  return sums;
}

// The answer to one call; fails the test when none comes.
absl::StatusOr<rpc::Answer> Ask(rpc::Transport& transport, const ExpertRows& call) {
  absl::Notification done;
  absl::StatusOr<rpc::Answer> answer = absl::UnknownError("no answer");
  std::vector<const std::byte*> rows;
  transport.Call(rpc::OutgoingOf(call, &rows).value(), absl::Seconds(20), [&](auto result) {
    answer = std::move(result);
    done.Notify();
  });
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(30)));
  return answer;
}

std::vector<int32_t> SumsOf(const ExpertSums& answer) {
  const auto view = rpc::ReadPayload(answer.sums());
  EXPECT_TRUE(view.ok()) << view.status();
  std::vector<int32_t> sums(static_cast<size_t>(view->rows) * view->cols);
  std::memcpy(sums.data(), view->data, sums.size() * 4);
  return sums;
}

TEST_F(ServiceTest, AnswersOverGrpcAsTheLoopDoes) {
  const ExpertSums direct = Submit(GoodCall(3));
  ASSERT_EQ(direct.status_code(), 0u) << direct.status_message();
  EXPECT_EQ(direct.call_id(), 99u);
  EXPECT_EQ(direct.epoch(), kEpoch);
  EXPECT_EQ(direct.row_flags(), std::string(3, '\0'));
  const std::vector<int32_t> want = SumsOf(direct);
  EXPECT_EQ(want.size(), 3u * kTestHidden);
  EXPECT_GT(std::count_if(want.begin(), want.end(), [](int32_t v) { return v != 0; }),
            kTestHidden * 2);

  for (const auto choice : {rpc::TransportChoice::kGrpc, rpc::TransportChoice::kShm}) {
    const auto transport = rpc::MakeTransport(server_->address(), choice);
    for (int i = 0; i < 20; ++i) {
      const absl::StatusOr<rpc::Answer> answer = Ask(*transport, GoodCall(3));
      ASSERT_TRUE(answer.ok()) << answer.status();
      EXPECT_EQ(answer->over_shm, choice == rpc::TransportChoice::kShm);
      EXPECT_EQ(answer->epoch, kEpoch);
      EXPECT_EQ(answer->row_flags.size(), 3u);
      EXPECT_EQ(SumsOf(answer->sums), want);
    }
  }
}

// Many calls at once from several threads: each gets its own rows' sums, merged or not.
TEST_F(ServiceTest, ConcurrentCallsAreMergedWithoutMixing) {
  std::vector<std::vector<int32_t>> want;
  for (int i = 0; i < 16; ++i) want.push_back(SumsOf(Submit(GoodCall(1 + i % 4, 1 + i % 2, i))));
  for (int round = 0; round < 5; ++round) {
    std::vector<ExpertSums> answers(16);
    std::vector<std::unique_ptr<absl::Notification>> done;
    for (int i = 0; i < 16; ++i) done.push_back(std::make_unique<absl::Notification>());
    for (int i = 0; i < 16; ++i) {
      loop_->Submit(GoodCall(1 + i % 4, 1 + i % 2, i), [&, i](ExpertSums sums) {
        answers[i] = std::move(sums);
        done[i]->Notify();
      });
    }
    for (int i = 0; i < 16; ++i) {
      ASSERT_TRUE(done[i]->WaitForNotificationWithTimeout(absl::Seconds(30)));
      ASSERT_EQ(answers[i].status_code(), 0u) << answers[i].status_message();
      EXPECT_EQ(SumsOf(answers[i]), want[i]) << i;
    }
  }
  EXPECT_NE(metrics_.Text().find("tandem_expert_passes_total"), std::string::npos);
}

struct HostileCase {
  const char* name;
  std::function<void(ExpertRows*)> spoil;
  absl::StatusCode code;
  const char* in_message;
};

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;

// Spoilt preconditions, forms and payloads.
std::vector<HostileCase> HostileHeads() {
  return {
      {"digest", [](ExpertRows* c) { c->set_model_digest("beef"); }, kPrecondition, "model_digest"},
      {"no digest", [](ExpertRows* c) { c->clear_model_digest(); }, kPrecondition, "model_digest"},
      {"dense layer", [](ExpertRows* c) { c->set_layer(0); }, kInvalid, "layer"},
      {"layer", [](ExpertRows* c) { c->set_layer(4000000000u); }, kInvalid, "layer"},
      {"reply form", [](ExpertRows* c) { c->clear_reply_form(); }, kInvalid, "reply_form"},
      {"reply form number",
       [](ExpertRows* c) { c->set_reply_form(static_cast<experts::v1::ReplyForm>(77)); }, kInvalid,
       "reply_form"},
      {"activation form", [](ExpertRows* c) { c->clear_activation_form(); }, kInvalid,
       "activation_form"},
      {"no x", [](ExpertRows* c) { c->clear_x(); }, kInvalid, ""},
      {"i32 x",
       [](ExpertRows* c) {
         c->mutable_x()->set_dtype(tensor::v1::WIRE_DTYPE_I32);
         c->mutable_x()->mutable_data()->resize(2 * kTestHidden * 4);
       },
       kInvalid, "bf16 or f32"},
      {"short x", [](ExpertRows* c) { c->mutable_x()->mutable_data()->pop_back(); }, kInvalid, ""},
      {"huge rows", [](ExpertRows* c) { c->mutable_x()->set_rows(0xffffffffu); }, kInvalid, ""},
      {"zero rows",
       [](ExpertRows* c) {
         c->mutable_x()->set_rows(0);
         c->mutable_x()->clear_data();
       },
       kInvalid, ""},
      {"narrow x",
       [](ExpertRows* c) {
         c->mutable_x()->set_cols(kTestHidden / 2);
         c->mutable_x()->mutable_data()->resize(2 * kTestHidden);
       },
       kInvalid, "hidden size"},
  };
}

// Spoilt lists and numbers.
std::vector<HostileCase> HostileLists() {
  const float not_a_number = std::numeric_limits<float>::quiet_NaN();
  return {
      {"counts", [](ExpertRows* c) { c->add_experts_per_row(1); }, kInvalid, "experts_per_row"},
      {"huge count", [](ExpertRows* c) { c->set_experts_per_row(0, 0xffffffffu); }, kInvalid,
       "experts_per_row"},
      {"sum of counts", [](ExpertRows* c) { c->set_experts_per_row(0, 1); }, kInvalid,
       "expert_ids"},
      {"ids", [](ExpertRows* c) { c->mutable_expert_ids()->RemoveLast(); }, kInvalid, "expert_ids"},
      {"weights", [](ExpertRows* c) { c->add_expert_weights(1.0f); }, kInvalid, "expert_weights"},
      {"grid", [](ExpertRows* c) { c->clear_grid_exponents(); }, kInvalid, "grid_exponents"},
      {"grid with per-expert form",
       [](ExpertRows* c) { c->set_reply_form(experts::v1::REPLY_FORM_PER_EXPERT_F32); }, kInvalid,
       "grid_exponents"},
      {"grid range", [](ExpertRows* c) { c->set_grid_exponents(0, -2000000000); }, kInvalid,
       "grid_exponents"},
      {"nan weight", [not_a_number](ExpertRows* c) { c->set_expert_weights(1, not_a_number); },
       kInvalid, "expert_weights"},
      {"id range", [](ExpertRows* c) { c->set_expert_ids(0, 4000000000u); }, kInvalid,
       "expert_ids"},
      {"not held",
       [](ExpertRows* c) {
         c->set_expert_ids(0, 7);
         c->set_epoch(3);
       },
       kPrecondition, "does not hold expert 7 of layer 1 under epoch 3"},
      {"no time", [](ExpertRows* c) { c->set_deadline_ms(0); }, absl::StatusCode::kDeadlineExceeded,
       "deadline_ms"},
  };
}

TEST_F(ServiceTest, EveryHostileFieldIsRefusedByName) {
  std::vector<HostileCase> cases = HostileHeads();
  for (const HostileCase& one : HostileLists()) cases.push_back(one);
  for (const HostileCase& one : cases) {
    ExpertRows call = GoodCall(2);
    one.spoil(&call);
    const ExpertSums answer = Submit(std::move(call));
    EXPECT_EQ(answer.status_code(), static_cast<uint32_t>(one.code))
        << one.name << ": " << answer.status_message();
    EXPECT_NE(answer.status_message().find(one.in_message), std::string::npos)
        << one.name << ": " << answer.status_message();
    EXPECT_EQ(answer.call_id(), 99u);
    EXPECT_FALSE(answer.has_sums());
  }
  EXPECT_EQ(Submit(GoodCall(1)).status_code(), 0u) << "the worker no longer answers good calls";
}

// An older epoch is served while the experts are held, and the answer says which epoch the worker
// has.
TEST_F(ServiceTest, OldEpochIsServedAndTheNewOneReported) {
  ExpertRows call = GoodCall(1);
  call.set_epoch(kEpoch - 3);
  const ExpertSums answer = Submit(std::move(call));
  EXPECT_EQ(answer.status_code(), 0u) << answer.status_message();
  EXPECT_EQ(answer.epoch(), kEpoch);
}

TEST_F(ServiceTest, FlaggedRowsComeBackInF32) {
  ExpertRows call = GoodCall(2);
  call.set_grid_exponents(1, -60);
  const ExpertSums flagged = Submit(call);
  EXPECT_EQ(flagged.row_flags(), std::string({'\0', '\1'}));
  call.set_reply_form(experts::v1::REPLY_FORM_PER_EXPERT_F32);
  call.clear_grid_exponents();
  const ExpertSums apart = Submit(call);
  ASSERT_EQ(apart.status_code(), 0u) << apart.status_message();
  EXPECT_EQ(apart.sums().rows(), 4u);
  EXPECT_EQ(apart.sums().dtype(), tensor::v1::WIRE_DTYPE_F32);
}

TEST_F(ServiceTest, FullQueueAnswersResourceExhausted) {
  StartLoop({.queue_calls_max = 2});
  std::atomic<int> done{0}, full{0};
  constexpr int kCalls = 200;
  for (int i = 0; i < kCalls; ++i) {
    loop_->Submit(GoodCall(16), [&](ExpertSums sums) {
      if (sums.status_code() == static_cast<uint32_t>(absl::StatusCode::kResourceExhausted)) ++full;
      ++done;
    });
  }
  EXPECT_TRUE(loop_->Drain(absl::Seconds(60)));
  EXPECT_EQ(done.load(), kCalls);
  EXPECT_GT(full.load(), 0);
  EXPECT_LT(full.load(), kCalls);
  EXPECT_EQ(Submit(GoodCall(1)).status_code(),
            static_cast<uint32_t>(absl::StatusCode::kUnavailable));
}

TEST_F(ServiceTest, QueueIsBoundedInBytes) {
  StartLoop({.queue_bytes_max = 100});
  const ExpertSums answer = Submit(GoodCall(1));
  EXPECT_EQ(answer.status_code(), static_cast<uint32_t>(absl::StatusCode::kResourceExhausted));
}

// Peers that go away in the middle, send garbage or never read: the worker goes on answering
// others.
TEST_F(ServiceTest, BrokenStreamsHarmNobody) {
  const auto stub = MakeStub();
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    auto stream = stub->Run(&context);
    for (int k = 0; k < 3; ++k) stream->Write(GoodCall(8));
    if (i % 3 == 0) {
      ExpertSums answer;
      EXPECT_TRUE(stream->Read(&answer));
    }
    if (i % 3 == 1) {
      context.TryCancel();
    } else {
      stream->WritesDone();
      ExpertSums answer;
      while (stream->Read(&answer)) EXPECT_EQ(answer.status_code(), 0u) << answer.status_message();
    }
    const grpc::Status status = stream->Finish();
    if (i % 3 != 1) {
      EXPECT_TRUE(status.ok()) << status.error_message();
    }
  }
  EXPECT_EQ(Submit(GoodCall(1)).status_code(), 0u);
}

TEST_F(ServiceTest, ShutdownWithOpenStreamsEnds) {
  const auto stub = MakeStub();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  auto stream = stub->Run(&context);
  stream->Write(GoodCall(4));
  ExpertSums answer;
  ASSERT_TRUE(stream->Read(&answer));
  const absl::Time start = absl::Now();
  server_->Shutdown(absl::Milliseconds(300));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_FALSE(stream->Read(&answer));
  EXPECT_FALSE(stream->Finish().ok());
}

TEST_F(ServiceTest, Describe) {
  grpc::ClientContext context;
  experts::v1::DescribeResponse response;
  ASSERT_TRUE(MakeStub()->Describe(&context, {}, &response).ok());
  EXPECT_EQ(response.worker_id(), "cpu-test");
}

TEST(PlacementShare, TakesReplicasOfThisWorkerOnly) {
  membership::v1::Placement placement;
  placement.set_epoch(4);
  placement.set_model_digest("d");
  placement.add_workers()->set_worker_id("a");
  placement.add_workers()->set_worker_id("b");
  membership::v1::LayerPlacement* layer = placement.add_layers();
  layer->set_layer(3);
  layer->add_experts()->add_workers(0);
  membership::v1::ExpertReplicas* both = layer->add_experts();
  both->add_workers(0);
  both->add_workers(1);
  layer->add_experts();  // none
  EXPECT_EQ(**ShareOf(placement, "a", "d"), (std::set<ExpertKey>{{3, 0}, {3, 1}}));
  EXPECT_EQ(**ShareOf(placement, "b", "d"), (std::set<ExpertKey>{{3, 1}}));
  EXPECT_FALSE(ShareOf(placement, "c", "d")->has_value());
  EXPECT_EQ(ShareOf(placement, "a", "x").status().code(), absl::StatusCode::kFailedPrecondition);
  both->add_workers(2);
  EXPECT_EQ(ShareOf(placement, "a", "d").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::cpu_worker
