#include "bench/wire/wire_worker.h"

#include <unistd.h>

#include <cstdio>
#include <memory>
#include <set>

#include "absl/strings/str_cat.h"
#include "cpu_worker/server/compute_loop.h"
#include "cpu_worker/server/expert_service.h"
#include "lib/base/status_macros.h"
#include "lib/experts/expert_store.h"
#include "lib/kernels/kernel_table.h"
#include "lib/model/synth.h"
#include "lib/rpc/grpc_server.h"
#include "lib/rpc/shm_server.h"
#include "nlohmann/json.hpp"

namespace tandem::bench {
namespace {

// The smallest rows of the expert kernels' panels and of q8_0's blocks.
constexpr int64_t kInter = 32;

ModelConfig WireConfig(const WireShape& shape) {
  ModelConfig config;
  config.model_type = "deepseek_v2";
  config.name = "wire";
  config.vocab_size = 512;
  config.hidden_size = shape.hidden;
  config.num_hidden_layers = 1;
  config.first_k_dense_replace = 0;
  config.intermediate_size = 64;
  config.moe_intermediate_size = kInter;
  config.n_routed_experts = kWireExperts;
  config.n_shared_experts = 1;
  config.num_experts_per_tok = shape.experts_per_token;
  config.num_attention_heads = 1;
  config.kv_lora_rank = 32;
  config.qk_nope_head_dim = 32;
  config.qk_rope_head_dim = 32;
  config.v_head_dim = 32;
  config.max_position_embeddings = 64;
  config.bos_token_id = 0;
  config.eos_token_ids = {1};
  return config;
}

absl::StatusOr<std::unique_ptr<ExpertStore>> OpenStore(const WireShape& shape,
                                                       const std::string& path) {
  SynthOptions options;
  options.config = WireConfig(shape);
  TANDEM_ASSIGN_OR_RETURN(options.format, ParseSynthFormat("q8_0", false));
  options.out = path;
  options.overwrite = true;
  TANDEM_RETURN_IF_ERROR(SynthesizeModel(options, [](int64_t, int64_t) { return true; }).status());
  ExpertStore::Options store_options;
  store_options.model_path = path;
  TANDEM_ASSIGN_OR_RETURN(auto store, ExpertStore::Open(store_options, kernels::ActiveTable()));
  std::set<ExpertKey> keys;
  for (uint32_t e = 0; e < kWireExperts; ++e) keys.insert({kWireLayer, e});
  TANDEM_RETURN_IF_ERROR(store->Place(keys, [] { return true; }));
  return store;
}

}  // namespace

absl::Status ServeWire(const WireShape& shape, const std::string& folder) {
  TANDEM_ASSIGN_OR_RETURN(const auto store, OpenStore(shape, folder + "/wire.gguf"));
  telemetry::Metrics metrics;
  cpu_worker::ComputeLoop::Options options;
  options.store = store.get();
  options.table = &kernels::ActiveTable();
  options.metrics = &metrics;
  std::unique_ptr<rpc::ShmServer> shm;  // outlives the loop
  cpu_worker::ComputeLoop loop(options);
  loop.set_epoch(1);
  const auto service = cpu_worker::MakeExpertService(
      {.loop = &loop, .describe = [] { return experts::v1::DescribeResponse(); }});
  TANDEM_ASSIGN_OR_RETURN(const auto tcp, rpc::GrpcServer::Start("127.0.0.1:0", {service.get()}));
  TANDEM_ASSIGN_OR_RETURN(
      const auto local,
      rpc::GrpcServer::Start(absl::StrCat("unix:", folder, "/grpc.sock"), {service.get()}));
  TANDEM_ASSIGN_OR_RETURN(shm, rpc::ShmServer::Start({.address = tcp->address()}, loop.wake_set()));
  loop.Serve(shm.get());
  const nlohmann::json hello = {
      {"tcp", tcp->address()}, {"unix", local->address()}, {"digest", store->digest()}};
  std::printf("%s\n", hello.dump().c_str());
  std::fflush(stdout);
  char ignored[64];
  while (::read(STDIN_FILENO, ignored, sizeof ignored) > 0) {
  }
  local->Shutdown(absl::Seconds(1));
  tcp->Shutdown(absl::Seconds(1));
  return absl::OkStatus();
}

}  // namespace tandem::bench
