#include "coordinator/membership/placement.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"

namespace tandem::coordinator {
namespace {

// How many experts each worker shall get: the same level for all, but no more than its memory and
// than one copy of each expert, which raises the level for the others. Sums to shape.experts() *
// replicas when that is possible at all.
std::vector<uint64_t> FillLevels(uint64_t slots, uint32_t replicas,
                                 const std::vector<Candidate>& candidates) {
  std::vector<uint64_t> levels(candidates.size(), 0);
  uint64_t left = slots * replicas;
  while (left > 0) {
    std::vector<size_t> open;
    for (size_t w = 0; w < candidates.size(); ++w) {
      if (levels[w] < std::min(candidates[w].experts_max, slots)) open.push_back(w);
    }
    if (open.empty()) break;
    const uint64_t share = std::max<uint64_t>(1, left / open.size());
    for (const size_t w : open) {
      const uint64_t room = std::min(candidates[w].experts_max, slots) - levels[w];
      const uint64_t more = std::min({share, room, left});
      levels[w] += more;
      left -= more;
    }
  }
  return levels;
}

absl::Status CheckMemory(const ExpertShape& shape, const std::vector<Candidate>& candidates,
                         uint32_t replicas) {
  if (replicas == 0)
    return absl::InvalidArgumentError("expected at least 1 replica of each expert, found 0");
  if (candidates.size() < replicas) {
    return absl::ResourceExhaustedError(absl::StrCat("expected at least ", replicas,
                                                     " CPU workers for ", replicas,
                                                     " replicas, found ", candidates.size()));
  }
  uint64_t room = 0;
  for (const Candidate& candidate : candidates)
    room += std::min(candidate.experts_max, shape.experts());
  if (room < shape.experts() * replicas) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "expected memory for ", shape.experts() * replicas, " experts (", shape.experts(), " x ",
        replicas, " replicas) on the CPU workers, found memory for ", room));
  }
  return absl::OkStatus();
}

// Deals slot after slot. A worker's turn comes when it is furthest behind its even pace, so each
// layer gets its share of each worker; a worker that needs every slot left is always taken, which
// keeps the levels reachable.
class Dealer {
 public:
  Dealer(uint64_t slots, uint32_t replicas, std::vector<uint64_t> levels)
      : slots_(slots),
        replicas_(replicas),
        levels_(std::move(levels)),
        dealt_(levels_.size(), 0),
        first_choices_(levels_.size(), 0) {}

  // The seats of the next slot, preferred first.
  std::vector<uint32_t> NextSlot() {
    std::vector<uint32_t> order(levels_.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [this](uint32_t a, uint32_t b) {
      if (Urgent(a) != Urgent(b)) return Urgent(a);
      return Behind(a) > Behind(b);
    });
    std::erase_if(order, [this](uint32_t w) { return dealt_[w] == levels_[w]; });
    TANDEM_CHECK_GE(order.size(), replicas_);
    order.resize(replicas_);
    for (const uint32_t w : order) ++dealt_[w];
    ++done_;
    // Whoever was preferred least often so far comes first, so that the load is even while all are
    // there.
    std::stable_sort(order.begin(), order.end(), [this](uint32_t a, uint32_t b) {
      return first_choices_[a] < first_choices_[b];
    });
    ++first_choices_[order.front()];
    return order;
  }

 private:
  bool Urgent(uint32_t w) const { return levels_[w] - dealt_[w] == slots_ - done_; }
  // Pace minus dealt, times slots_; the counts are far below 2^31, so products fit.
  int64_t Behind(uint32_t w) const {
    return static_cast<int64_t>(levels_[w] * (done_ + 1)) -
           static_cast<int64_t>(dealt_[w] * slots_);
  }

  const uint64_t slots_;
  const uint32_t replicas_;
  const std::vector<uint64_t> levels_;
  std::vector<uint64_t> dealt_;
  std::vector<uint64_t> first_choices_;
  uint64_t done_ = 0;
};

}  // namespace

absl::StatusOr<PlacementTable> DealExperts(const ExpertShape& shape,
                                           std::vector<Candidate> candidates, uint32_t replicas) {
  if (absl::Status status = CheckMemory(shape, candidates, replicas); !status.ok()) return status;
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.worker_id < b.worker_id; });
  PlacementTable table;
  table.shape = shape;
  for (const Candidate& candidate : candidates) table.seats.push_back({candidate.worker_id, 0, ""});
  const uint64_t slots = shape.experts();
  Dealer dealer(slots, replicas, FillLevels(slots, replicas, candidates));
  table.owners.resize(shape.moe_layers.size());
  for (auto& layer : table.owners) {
    for (uint32_t expert = 0; expert < shape.experts_per_layer; ++expert) {
      layer.push_back(dealer.NextSlot());
      for (const uint32_t seat : layer.back()) ++table.seats[seat].experts;
    }
  }
  return table;
}

bool VacateSeat(const std::string& worker_id, PlacementTable* table) {
  for (Seat& seat : table->seats) {
    if (seat.worker_id != worker_id) continue;
    seat.last_worker_id = std::move(seat.worker_id);
    seat.worker_id.clear();
    return true;
  }
  return false;
}

bool TakeSeat(const Candidate& worker, PlacementTable* table) {
  Seat* found = nullptr;
  for (Seat& seat : table->seats) {
    if (!seat.worker_id.empty() || seat.experts > worker.experts_max) continue;
    if (found == nullptr || seat.last_worker_id == worker.worker_id) found = &seat;
  }
  if (found == nullptr) return false;
  found->worker_id = worker.worker_id;
  found->last_worker_id.clear();
  return true;
}

namespace {

// The seated worker that shall also hold this expert: memory left, does not hold it yet, least
// loaded in this layer, then in all.
std::optional<uint32_t> BestHost(const PlacementTable& table, const std::vector<uint64_t>& room,
                                 const std::vector<uint32_t>& in_layer,
                                 const std::vector<uint32_t>& owners) {
  std::optional<uint32_t> best;
  for (uint32_t s = 0; s < table.seats.size(); ++s) {
    if (table.seats[s].worker_id.empty() || table.seats[s].experts >= room[s]) continue;
    if (std::find(owners.begin(), owners.end(), s) != owners.end()) continue;
    if (!best || std::pair(in_layer[s], table.seats[s].experts) <
                     std::pair(in_layer[*best], table.seats[*best].experts)) {
      best = s;
    }
  }
  return best;
}

std::vector<uint64_t> RoomOfSeats(const PlacementTable& table,
                                  const std::vector<Candidate>& candidates) {
  std::vector<uint64_t> room(table.seats.size(), 0);
  for (size_t s = 0; s < room.size(); ++s) {
    for (const Candidate& candidate : candidates) {
      if (candidate.worker_id == table.seats[s].worker_id) room[s] = candidate.experts_max;
    }
  }
  return room;
}

void RemoveSeat(uint32_t seat, PlacementTable* table) {
  table->seats.erase(table->seats.begin() + seat);
  for (auto& layer : table->owners) {
    for (auto& owners : layer) {
      for (uint32_t& owner : owners) owner -= owner > seat;
    }
  }
}

}  // namespace

absl::Status SpreadSeat(uint32_t seat, const std::vector<Candidate>& candidates,
                        PlacementTable* table) {
  TANDEM_CHECK_LT(seat, table->seats.size());
  TANDEM_CHECK(table->seats[seat].worker_id.empty());
  PlacementTable changed = *table;
  const std::vector<uint64_t> room = RoomOfSeats(changed, candidates);
  for (auto& layer : changed.owners) {
    std::vector<uint32_t> in_layer(changed.seats.size(), 0);
    for (const auto& owners : layer) {
      for (const uint32_t owner : owners) ++in_layer[owner];
    }
    for (auto& owners : layer) {
      const auto lost = std::find(owners.begin(), owners.end(), seat);
      if (lost == owners.end()) continue;
      owners.erase(lost);
      const std::optional<uint32_t> host = BestHost(changed, room, in_layer, owners);
      if (host) {
        owners.push_back(*host);
        ++in_layer[*host];
        ++changed.seats[*host].experts;
      } else if (owners.empty()) {
        return absl::ResourceExhaustedError(
            "no CPU worker has memory left for the experts of a lost one");
      }
    }
  }
  RemoveSeat(seat, &changed);
  *table = std::move(changed);
  return absl::OkStatus();
}

uint64_t CountUncovered(const PlacementTable& table, const std::vector<bool>& seat_usable) {
  return CountBelow(table, seat_usable, 1);
}

uint64_t CountBelow(const PlacementTable& table, const std::vector<bool>& seat_usable,
                    uint32_t replicas) {
  TANDEM_CHECK_EQ(seat_usable.size(), table.seats.size());
  uint64_t below = 0;
  for (const auto& layer : table.owners) {
    for (const auto& owners : layer) {
      below += std::count_if(owners.begin(), owners.end(),
                             [&](uint32_t s) { return seat_usable[s]; }) < int64_t{replicas};
    }
  }
  return below;
}

}  // namespace tandem::coordinator
