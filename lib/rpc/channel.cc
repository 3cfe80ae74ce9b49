#include "lib/rpc/channel.h"

#include <grpcpp/grpcpp.h>

#include "absl/time/clock.h"
#include "lib/rpc/grpc_server.h"

namespace tandem::rpc {

namespace {

grpc::ChannelArguments CommonArguments() {
  grpc::ChannelArguments args;
  args.SetMaxReceiveMessageSize(kMessageBytesMax);
  args.SetMaxSendMessageSize(kMessageBytesMax);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  args.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // gRPC's name for how long one attempt to connect may take, handshake included: a refused attempt
  // ends at once all the same, but a busy or distant peer needs more than the backoff.
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5'000);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  // Otherwise a new channel to a restarted peer waits out the backoff of an old one.
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // Addresses of the cluster are never behind the environment's web proxy.
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return args;
}

std::shared_ptr<grpc::Channel> Open(const std::string& address,
                                    const grpc::ChannelArguments& args) {
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args);
}

}  // namespace

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address) {
  return Open(address, CommonArguments());
}

std::shared_ptr<grpc::Channel> MakeQuietChannel(const std::string& address) {
  grpc::ChannelArguments args = CommonArguments();
  args.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  args.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kQuietWindowBytes);
  return Open(address, args);
}

bool WaitForConnected(grpc::Channel& channel, absl::Duration wait_max) {
  return channel.WaitForConnected(absl::ToChronoTime(absl::Now() + wait_max));
}

}  // namespace tandem::rpc
