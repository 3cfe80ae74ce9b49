#include "lib/rpc/grpc_server.h"

#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/impl/server_initializer.h>
#include <sys/resource.h>

#include <mutex>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/base/log.h"
#include "lib/rpc/address.h"

namespace tandem::rpc {
namespace {

// Learns the full names of a server's services, so that health can be set for each: grpc::Service
// keeps them private.
class ServiceNames final : public grpc::ServerBuilderPlugin {
 public:
  explicit ServiceNames(std::shared_ptr<std::vector<std::string>> names)
      : names_(std::move(names)) {}
  std::string name() override { return "tandem_service_names"; }
  void InitServer(grpc::ServerInitializer*) override {}
  void ChangeArguments(const std::string&, void*) override {}
  void Finish(grpc::ServerInitializer* server) override { *names_ = *server->GetServiceList(); }

 private:
  std::shared_ptr<std::vector<std::string>> names_;
};

class ServiceNamesOption final : public grpc::ServerBuilderOption {
 public:
  explicit ServiceNamesOption(std::shared_ptr<std::vector<std::string>> names)
      : names_(std::move(names)) {}
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    plugins->push_back(std::make_unique<ServiceNames>(names_));
  }

 private:
  std::shared_ptr<std::vector<std::string>> names_;
};

// True while this thread binds a port: the failure is returned as a status, and the library's own
// essay about it is noise.
thread_local bool binding = false;

void LogOfGrpc(gpr_log_func_args* args) {
  if (args->severity != GPR_LOG_SEVERITY_ERROR || binding) return;
  base::LogWarning("grpc",
                   {{"message", args->message}, {"file", args->file}, {"line", args->line}});
}

// Switches of the process; they must come before the first builder.
void SetUpLibrary() {
  static std::once_flag once;
  std::call_once(once, [] {
    gpr_set_log_function(LogOfGrpc);
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

// A gRPC 1.51 server that has once run out of descriptors never accepts again, and it has no cap on
// connections. So it takes all the descriptors it may have; those who have few are told.
void RaiseDescriptorLimit() {
  constexpr rlim_t kFew = 1024;
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  if (limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);  // if it fails, the old limit stays
    getrlimit(RLIMIT_NOFILE, &limit);
  }
  if (limit.rlim_cur < kFew)
    base::LogWarning("few_descriptors", {{"expected", kFew}, {"found", limit.rlim_cur}});
}

void SetArguments(grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(kMessageBytesMax);
  builder->SetMaxSendMessageSize(kMessageBytesMax);
  // Two servers on one port would share its connections in silence.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // Our clients ping every 20 s with or without calls; faster than every 5 s is abuse.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Per connection; an evaluation client keeps a few hundred answers running.
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 1024);
  // Default 120 s: silent connections would pile up.
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10'000);
}

bool IsUnixAddress(const std::string& listen) { return absl::StartsWith(listen, "unix:"); }

}  // namespace

struct GrpcServer::Impl {
  std::unique_ptr<grpc::Server> server;
  std::shared_ptr<std::vector<std::string>> service_names =
      std::make_shared<std::vector<std::string>>();
  int port = 0;
  std::string address;
};

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

GrpcServer::~GrpcServer() { Shutdown(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const std::string& listen, const std::vector<grpc::Service*>& services, Traffic traffic) {
  HostPort address;
  if (!IsUnixAddress(listen)) {
    absl::StatusOr<HostPort> parsed = ParseHostPort(listen);
    if (!parsed.ok()) return parsed.status();
    address = *parsed;
  }
  SetUpLibrary();
  RaiseDescriptorLimit();
  auto impl = std::make_unique<Impl>();
  grpc::ServerBuilder builder;
  SetArguments(&builder);
  if (traffic == Traffic::kQuiet) {
    builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kQuietWindowBytes);
  }
  builder.SetOption(std::make_unique<ServiceNamesOption>(impl->service_names));
  builder.AddListeningPort(listen, grpc::InsecureServerCredentials(), &impl->port);
  for (grpc::Service* service : services) builder.RegisterService(service);
  binding = true;
  impl->server = builder.BuildAndStart();
  binding = false;
  if (impl->server == nullptr || impl->port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", listen, " (is another program using the port?)"));
  }
  address.port = static_cast<uint16_t>(impl->port);
  impl->address = IsUnixAddress(listen) ? listen : FormatHostPort(address);
  std::unique_ptr<GrpcServer> server(new GrpcServer(std::move(impl)));
  server->SetServing(false);
  return server;
}

int GrpcServer::port() const { return impl_->port; }

const std::string& GrpcServer::address() const { return impl_->address; }

void GrpcServer::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = impl_->server->GetHealthCheckService();
  health->SetServingStatus("", serving);
  for (const std::string& name : *impl_->service_names) health->SetServingStatus(name, serving);
}

void GrpcServer::Shutdown(absl::Duration grace) {
  SetServing(false);
  impl_->server->Shutdown(absl::ToChronoTime(absl::Now() + grace));
}

}  // namespace tandem::rpc
