// ScriptedEngine: a GPU worker for tests of the step loop, over real gRPC. Its "model" is a hash of
// all tokens so far, so a replay that differs in one token gives another answer, and it holds the
// coordinator to every rule of engine.proto.
#pragma once

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "lib/rpc/grpc_server.h"
#include "proto/engine.grpc.pb.h"

namespace tandem::coordinator {

// The token the scripted model puts behind `tokens`: printable ASCII.
inline uint32_t NextToken(const std::vector<uint32_t>& tokens) {
  uint64_t hash = 1469598103934665603u;  // FNV-1a
  for (const uint32_t token : tokens) hash = (hash ^ token) * 1099511628211u;
  return 'a' + (hash >> 33) % 26;
}

class ScriptedEngine final : public engine::v1::Engine::Service {
 public:
  struct Script {
    uint32_t kv_pages = 64, page_tokens = 8, rows_max = 64;
    // Asked before each plan is executed: a status other than OK ends the stream with it.
    std::function<grpc::Status(int step, const engine::v1::StepPlan&)> before_step;
    // A status for the whole step, and one for a slice.
    std::function<absl::Status(const engine::v1::StepPlan&)> step_status;
    std::function<absl::Status(const engine::v1::SequenceSlice&)> slice_status;
    absl::Duration step_time;
  };

  explicit ScriptedEngine(Script script) : script_(std::move(script)) {
    server_ = *rpc::GrpcServer::Start("127.0.0.1:0", {this});
  }

  const std::string& address() const { return server_->address(); }
  int steps() const { return steps_; }
  int streams() const { return streams_; }
  // Sequences whose state is held now; rules that were broken so far.
  size_t sequences_held() {
    absl::MutexLock lock(&mutex_);
    return sequences_.size();
  }
  std::vector<std::string> violations() {
    absl::MutexLock lock(&mutex_);
    return violations_;
  }

  grpc::Status Describe(grpc::ServerContext*, const engine::v1::DescribeRequest*,
                        engine::v1::DescribeResponse* response) override {
    response->set_kv_pages(script_.kv_pages);
    response->set_page_tokens(script_.page_tokens);
    response->set_rows_max(script_.rows_max);
    response->set_precision("bf16");
    response->set_attention("flash");
    return grpc::Status::OK;
  }

  grpc::Status Run(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<engine::v1::StepResult, engine::v1::StepPlan>* stream) override {
    ++streams_;
    Forget();
    engine::v1::StepPlan plan;
    while (stream->Read(&plan)) {
      const int step = ++steps_;
      if (script_.before_step) {
        const grpc::Status status = script_.before_step(step, plan);
        if (!status.ok()) {
          Forget();
          return status;
        }
      }
      absl::SleepFor(script_.step_time);
      stream->Write(Execute(plan));
    }
    return grpc::Status::OK;
  }

 private:
  struct State {
    uint32_t prompt_tokens = 0;
    std::vector<uint32_t> tokens;
    std::vector<uint32_t> pages;
    sampling::v1::SamplingParams sampling;
  };

  void Forget() {
    absl::MutexLock lock(&mutex_);
    sequences_.clear();
  }

  void Require(bool holds, const std::string& rule) {
    if (!holds) violations_.push_back(rule);
  }

  engine::v1::StepResult Execute(const engine::v1::StepPlan& plan) {
    absl::MutexLock lock(&mutex_);
    engine::v1::StepResult result;
    result.set_step_id(plan.step_id());
    for (const auto& start : plan.starts()) {
      Require(sequences_.count(start.sequence_id()) == 0, "a sequence is started twice");
      State& state = sequences_[start.sequence_id()];
      state.prompt_tokens = start.prompt_tokens();
      state.sampling = start.sampling();
    }
    if (script_.step_status) {
      const absl::Status status = script_.step_status(plan);
      result.set_status_code(status.raw_code());
      result.set_status_message(std::string(status.message()));
      if (!status.ok()) {
        Release(plan);
        return result;
      }
    }
    int rows = 0;
    std::set<uint64_t> seen;
    for (const auto& slice : plan.slices()) {
      rows += slice.token_ids_size();
      Require(seen.insert(slice.sequence_id()).second, "two slices of one sequence");
      ExecuteSlice(slice, result.add_slices());
    }
    Require(rows <= static_cast<int>(script_.rows_max), "too many rows");
    Release(plan);
    Require(plan.deadline_ms() > 0, "no deadline");
    return result;
  }

  void Release(const engine::v1::StepPlan& plan) {
    for (const uint64_t id : plan.releases())
      Require(sequences_.erase(id) == 1, "an unknown sequence is released");
  }

  void ExecuteSlice(const engine::v1::SequenceSlice& slice, engine::v1::SliceResult* out) {
    out->set_sequence_id(slice.sequence_id());
    const auto found = sequences_.find(slice.sequence_id());
    Require(found != sequences_.end(), "a slice of an unknown sequence");
    if (found == sequences_.end()) return;
    State& state = found->second;
    for (const uint32_t page : slice.new_pages()) {
      Require(page < script_.kv_pages, "a page that is none");
      for (const auto& [id, other] : sequences_) {
        Require(std::count(other.pages.begin(), other.pages.end(), page) == 0,
                "a page of two sequences");
      }
      state.pages.push_back(page);
    }
    Require(slice.token_ids_size() > 0, "an empty slice");
    Require(slice.start_position() == state.tokens.size(), "a gap in positions");
    const uint32_t end = slice.start_position() + slice.token_ids_size();
    const bool prefill = slice.kind() == engine::v1::SLICE_KIND_PREFILL;
    Require(prefill ? end <= state.prompt_tokens : slice.start_position() >= state.prompt_tokens,
            "the wrong kind of slice for its positions");
    Require(end <= state.pages.size() * script_.page_tokens, "positions without a page");
    if (script_.slice_status) {
      const absl::Status status = script_.slice_status(slice);
      out->set_status_code(status.raw_code());
      out->set_status_message(std::string(status.message()));
      if (!status.ok()) return;
    }
    for (const uint32_t token : slice.token_ids()) {
      if (slice.prompt_logprobs_plus1() > 0 && !state.tokens.empty()) {
        auto* logprob = out->add_prompt_logprobs()->mutable_chosen();
        logprob->set_token_id(token);
        logprob->set_logprob(-float(state.tokens.size()));
      }
      state.tokens.push_back(token);
    }
    if (!slice.sample()) return;
    const uint32_t next = NextToken(state.tokens);
    out->set_has_token(true);
    out->set_token_id(next);
    for (const uint32_t stop : state.sampling.stop_token_ids())
      out->set_is_stop_token(out->is_stop_token() || stop == next);
    if (state.sampling.logprobs()) out->mutable_logprobs()->mutable_chosen()->set_token_id(next);
  }

  const Script script_;
  std::atomic<int> steps_{0};
  std::atomic<int> streams_{0};
  absl::Mutex mutex_;
  std::map<uint64_t, State> sequences_;
  std::vector<std::string> violations_;
  std::unique_ptr<rpc::GrpcServer> server_;  // last: it goes first and ends the calls
};

}  // namespace tandem::coordinator
