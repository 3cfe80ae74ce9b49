#include "coordinator/membership/registry.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "lib/base/log.h"

namespace tandem::coordinator {
namespace {

using namespace membership::v1;

constexpr size_t kMembersMax = 4096;
constexpr size_t kTextBytesMax = 256;
// DeepSeek-V3 has 58 x 256 experts; ten times as many is no model but an attack on memory.
constexpr uint64_t kExpertsMax = 1 << 18;

absl::Status CheckRegistration(const RegisterRequest& request) {
  const auto bad = [&](const std::string& what) {
    return absl::InvalidArgumentError(
        absl::StrCat("registration of '", request.worker_id().substr(0, 64), "': ", what));
  };
  if (request.worker_id().empty() || request.worker_id().size() > kTextBytesMax) {
    return bad(absl::StrCat("expected a worker_id of 1 to ", kTextBytesMax, " bytes"));
  }
  if (request.kind() != WORKER_KIND_CPU && request.kind() != WORKER_KIND_GPU)
    return bad("unknown kind");
  if (request.address().empty() || request.address().size() > kTextBytesMax)
    return bad("no usable address");
  if (request.model_digest().empty() || request.model_digest().size() > kTextBytesMax) {
    return bad("no usable model_digest");
  }
  if (uint64_t(request.moe_layers_size()) * std::max(1u, request.experts_per_layer()) >
      kExpertsMax) {
    return bad(absl::StrCat("more than ", kExpertsMax, " experts"));
  }
  if ((request.moe_layers_size() > 0) != (request.experts_per_layer() > 0)) {
    return bad("moe_layers and experts_per_layer contradict each other");
  }
  for (int i = 1; i < request.moe_layers_size(); ++i) {
    if (request.moe_layers(i) <= request.moe_layers(i - 1))
      return bad("moe_layers are not ascending");
  }
  return absl::OkStatus();
}

ExpertShape ShapeOf(const RegisterRequest& request) {
  return {{request.moe_layers().begin(), request.moe_layers().end()}, request.experts_per_layer()};
}

uint64_t ExpertsMax(const RegisterRequest& request) {
  if (request.expert_memory_bytes() == 0 || request.bytes_per_expert() == 0) return UINT64_MAX;
  return request.expert_memory_bytes() / request.bytes_per_expert();
}

}  // namespace

Registry::Registry(const RegistryOptions& options, const base::Clock* clock)
    : options_(options), clock_(clock), epoch_(absl::ToUnixMillis(clock->Now())) {
  absl::MutexLock lock(&mutex_);
  SeatWorkers();  // a model without experts expects no CPU worker
}

absl::StatusOr<RegisterResponse> Registry::Register(const RegisterRequest& request) {
  if (absl::Status status = CheckRegistration(request); !status.ok()) return status;
  absl::MutexLock lock(&mutex_);
  if (absl::Status status = CheckModel(request); !status.ok()) {
    base::LogWarning("worker_refused",
                     {{"worker", request.worker_id()}, {"reason", status.ToString()}});
    return status;
  }
  if (members_.size() >= kMembersMax && members_.count(request.worker_id()) == 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the cluster has ", kMembersMax, " workers already"));
  }
  if (members_.empty() && table_ && placement_ &&
      placement_->model_digest() != request.model_digest()) {
    table_.reset();  // everybody has left and a new model comes
    vacant_since_.clear();
  }
  ReplaceAt(request);
  Member& member = members_[request.worker_id()];
  if (member.order == 0) member.order = ++next_order_;
  const bool moved =
      !member.registration.address().empty() && member.registration.address() != request.address();
  member.registration = request;
  member.last_seen = clock_->Monotonic();
  if (member.is_cpu() && request.moe_layers_size() > 0) shape_ = ShapeOf(request);
  base::LogInfo("worker_registered", {{"worker", request.worker_id()},
                                      {"address", request.address()},
                                      {"version", request.version()}});
  SeatWorkers();
  if (moved && table_) Publish();
  Changed();
  RegisterResponse response;
  response.set_heartbeat_interval_ms(
      absl::ToInt64Milliseconds(options_.heartbeat_interval / (member.is_cpu() ? 1 : 2)));
  response.set_lease_ms(absl::ToInt64Milliseconds(options_.lease));
  return response;
}

// Whoever was at this address before has died: its lease need not be waited for.
void Registry::ReplaceAt(const RegisterRequest& request) {
  std::string replaced;
  for (const auto& [id, member] : members_) {
    if (id != request.worker_id() && member.registration.address() == request.address()) {
      replaced = id;
    }
  }
  if (!replaced.empty()) Forget(replaced, "another worker has its address");
}

absl::Status Registry::CheckModel(const RegisterRequest& request) const {
  if (request.recipe_digest() != options_.recipe_digest) {
    const auto text = [](const std::string& digest) {
      return digest.empty() ? "none" : digest.substr(0, kTextBytesMax);
    };
    return absl::FailedPreconditionError(
        absl::StrCat("worker ", request.worker_id(), " runs recipe ", text(request.recipe_digest()),
                     ", expected the coordinator's: ", text(options_.recipe_digest)));
  }
  for (const auto& [id, member] : members_) {
    const RegisterRequest& other = member.registration;
    if (id == request.worker_id()) continue;
    if (other.model_digest() != request.model_digest()) {
      return absl::FailedPreconditionError(
          absl::StrCat("worker ", request.worker_id(), " has model ", request.model_digest(),
                       ", the cluster serves ", other.model_digest(), " (on worker ", id, ")"));
    }
    const bool both_cpu = member.is_cpu() && request.kind() == WORKER_KIND_CPU;
    if (both_cpu && ShapeOf(other) != ShapeOf(request)) {
      return absl::FailedPreconditionError(
          absl::StrCat("worker ", request.worker_id(), " counts ", ShapeOf(request).experts(),
                       " experts in the model, worker ", id, " ", ShapeOf(other).experts()));
    }
  }
  return absl::OkStatus();
}

HeartbeatResponse Registry::Heartbeat(const HeartbeatRequest& request) {
  HeartbeatResponse response;
  absl::MutexLock lock(&mutex_);
  const auto found = members_.find(request.worker_id());
  response.set_known(found != members_.end());
  if (found != members_.end()) {
    Member& member = found->second;
    const bool ready_before = member.is_ready();
    member.last_seen = clock_->Monotonic();
    member.state = request.state();
    member.epoch_loaded = request.epoch();
    if (member.is_ready() != ready_before) {
      base::LogInfo("worker_readiness", {{"worker", request.worker_id()},
                                         {"ready", member.is_ready() ? "true" : "false"},
                                         {"state", WorkerState_Name(request.state())}});
      if (table_ && IsSeated(request.worker_id())) Publish();
      Changed();
    }
  }
  response.set_epoch(placement_ == nullptr ? 0 : epoch_);
  return response;
}

void Registry::Deregister(const std::string& worker_id) {
  absl::MutexLock lock(&mutex_);
  Forget(worker_id, "said goodbye");
}

void Registry::Forget(const std::string& worker_id, const char* why) {
  if (members_.erase(worker_id) == 0) return;
  base::LogWarning("worker_lost", {{"worker", worker_id}, {"why", why}});
  if (table_ && VacateSeat(worker_id, &*table_)) {
    vacant_since_[worker_id] = clock_->Monotonic();
    SeatWorkers();
    Publish();
  }
  Changed();
}

void Registry::Changed() {
  if (options_.on_change) options_.on_change();
}

void Registry::Tick() {
  absl::MutexLock lock(&mutex_);
  const absl::Duration now = clock_->Monotonic();
  std::vector<std::string> silent;
  for (const auto& [id, member] : members_) {
    if (now - member.last_seen > options_.lease) silent.push_back(id);
  }
  for (const std::string& id : silent) Forget(id, "its lease is over");
  SpreadOverdueSeats(now);
}

void Registry::SpreadOverdueSeats(absl::Duration now) {
  if (!table_) return;
  for (uint32_t s = 0; s < table_->seats.size();) {
    const Seat seat = table_->seats[s];
    const auto since = vacant_since_.find(seat.last_worker_id);
    if (!seat.worker_id.empty() || since == vacant_since_.end() ||
        now - since->second < options_.replace_after) {
      ++s;
      continue;
    }
    const std::vector<Seat> before = table_->seats;
    const absl::Status status = SpreadSeat(s, CpuCandidates(), &*table_);
    if (!status.ok()) {
      base::LogError("experts_not_replaced",
                     {{"lost_worker", seat.last_worker_id}, {"reason", status.ToString()}});
      since->second = now;  // said again after another wait, not twice a second
      ++s;
      continue;
    }
    base::LogWarning("experts_replaced",
                     {{"lost_worker", seat.last_worker_id}, {"experts", seat.experts}});
    vacant_since_.erase(since);
    for (const Seat& old : before) {
      for (const Seat& changed : table_->seats) {
        if (changed.worker_id == old.worker_id && changed.experts != old.experts &&
            !changed.worker_id.empty()) {
          members_.at(changed.worker_id).epoch_needed = epoch_ + 1;
        }
      }
    }
    Publish();
  }
}

std::vector<Candidate> Registry::CpuCandidates() const {
  std::vector<Candidate> candidates;
  for (const auto& [id, member] : members_) {
    if (member.is_cpu()) candidates.push_back({id, ExpertsMax(member.registration)});
  }
  return candidates;
}

void Registry::SeatWorkers() {
  if (!table_) return DealFirstTable();
  bool changed = false;
  for (const Candidate& candidate : CpuCandidates()) {
    if (IsSeated(candidate.worker_id) || !TakeSeat(candidate, &*table_)) continue;
    members_.at(candidate.worker_id).epoch_needed = epoch_ + 1;
    changed = true;
  }
  if (changed) Publish();
}

void Registry::DealFirstTable() {
  const std::vector<Candidate> candidates = CpuCandidates();
  if (candidates.size() < options_.cpu_workers_expected) return;
  // Without any worker there is nobody to deal to; an empty table is right then (no experts
  // expected).
  absl::StatusOr<PlacementTable> dealt = candidates.empty()
                                             ? absl::StatusOr<PlacementTable>(PlacementTable{})
                                             : DealExperts(shape_, candidates, options_.replicas);
  deal_status_ = dealt.status();
  if (!dealt.ok()) {
    base::LogError("experts_not_dealt", {{"reason", deal_status_.ToString()}});
    return;
  }
  table_ = *std::move(dealt);
  for (auto& [id, member] : members_) {
    if (member.is_cpu()) member.epoch_needed = epoch_ + 1;
  }
  Publish();
  base::LogInfo("experts_dealt",
                {{"experts", shape_.experts()}, {"workers", candidates.size()}, {"epoch", epoch_}});
}

bool Registry::IsSeated(const std::string& worker_id) const {
  return std::any_of(table_->seats.begin(), table_->seats.end(),
                     [&](const Seat& seat) { return seat.worker_id == worker_id; });
}

bool Registry::IsUsable(const Seat& seat) const {
  const auto found = members_.find(seat.worker_id);
  return found != members_.end() && found->second.is_ready();
}

void Registry::Publish() {
  ++epoch_;
  auto message = std::make_shared<Placement>();
  message->set_epoch(epoch_);
  std::vector<int> index_of_seat(table_->seats.size(), -1);
  for (size_t s = 0; s < table_->seats.size(); ++s) {
    const Seat& seat = table_->seats[s];
    if (seat.worker_id.empty()) continue;
    index_of_seat[s] = message->workers_size();
    PlacedWorker* worker = message->add_workers();
    worker->set_worker_id(seat.worker_id);
    worker->set_address(members_.at(seat.worker_id).registration.address());
    worker->set_ready(IsUsable(seat));
  }
  for (size_t l = 0; l < table_->owners.size(); ++l) {
    LayerPlacement* layer = message->add_layers();
    layer->set_layer(table_->shape.moe_layers[l]);
    for (const auto& owners : table_->owners[l]) {
      ExpertReplicas* replicas = layer->add_experts();
      for (const uint32_t seat : owners) {
        if (index_of_seat[seat] >= 0) replicas->add_workers(index_of_seat[seat]);
      }
    }
  }
  const std::string old_digest = placement_ == nullptr ? "" : placement_->model_digest();
  message->set_model_digest(
      members_.empty() ? old_digest : members_.begin()->second.registration.model_digest());
  placement_ = std::move(message);
  CountExperts();
}

void Registry::CountExperts() {
  std::vector<bool> usable, taken;
  for (const Seat& seat : table_->seats) {
    usable.push_back(IsUsable(seat));
    taken.push_back(!seat.worker_id.empty());
  }
  uncovered_ = CountUncovered(*table_, usable);
  const uint64_t below_before = below_replicas_;
  below_replicas_ = CountBelow(*table_, taken, options_.replicas);
  if (below_before > 0 || below_replicas_ == 0) return;
  base::LogWarning("experts_below_replicas",
                   {{"experts", below_replicas_}, {"replicas", options_.replicas}});
}

std::shared_ptr<const Placement> Registry::placement() const {
  absl::MutexLock lock(&mutex_);
  return placement_;
}

std::string Registry::DescribeMissing() const {
  std::vector<std::string> parts;
  for (const Seat& seat : table_->seats) {
    if (seat.worker_id.empty()) {
      parts.push_back(absl::StrCat(seat.last_worker_id, " is lost"));
    } else if (!IsUsable(seat)) {
      parts.push_back(absl::StrCat(seat.worker_id, " is loading"));
    }
  }
  return absl::StrJoin(parts, ", ");
}

absl::Status Registry::Readiness() const {
  const ClusterSummary summary = Summary();
  absl::MutexLock lock(&mutex_);
  if (!deal_status_.ok()) return absl::UnavailableError(deal_status_.message());
  if (!table_) {
    return absl::UnavailableError(absl::StrCat("waiting for CPU workers: ", summary.cpu_workers,
                                               " of ", options_.cpu_workers_expected,
                                               " have registered"));
  }
  if (uncovered_ > 0) {
    return absl::UnavailableError(
        absl::StrCat(uncovered_, " of ", table_->shape.experts(),
                     " experts are on no ready CPU worker: ", DescribeMissing()));
  }
  if (summary.gpu_workers_ready == 0) {
    return absl::UnavailableError(
        absl::StrCat("no GPU worker is ready (", summary.gpu_workers, " registered)"));
  }
  return absl::OkStatus();
}

std::vector<ReadyWorker> Registry::ReadyGpuWorkers() const {
  absl::MutexLock lock(&mutex_);
  std::vector<const Member*> ready;
  for (const auto& [id, member] : members_) {
    if (!member.is_cpu() && member.is_ready()) ready.push_back(&member);
  }
  std::sort(ready.begin(), ready.end(),
            [](const Member* a, const Member* b) { return a->order < b->order; });
  std::vector<ReadyWorker> out;
  for (const Member* member : ready) {
    out.push_back({member->registration.worker_id(), member->registration.address()});
  }
  return out;
}

ClusterSummary Registry::Summary() const {
  absl::MutexLock lock(&mutex_);
  ClusterSummary summary;
  for (const auto& [id, member] : members_) {
    summary.model_digest = member.registration.model_digest();
    ++(member.is_cpu() ? summary.cpu_workers : summary.gpu_workers);
    if (!member.is_ready()) continue;
    if (!member.is_cpu()) {
      ++summary.gpu_workers_ready;
    } else if (table_ && IsSeated(id)) {
      ++summary.cpu_workers_ready;
    }
  }
  summary.experts = shape_.experts();
  summary.experts_uncovered = table_ ? uncovered_ : shape_.experts();
  summary.experts_below_replicas = table_ ? below_replicas_ : 0;
  summary.epoch = placement_ == nullptr ? 0 : epoch_;
  return summary;
}

}  // namespace tandem::coordinator
