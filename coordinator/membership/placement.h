// Placement: which workers hold which experts, as pure functions. Experts are dealt to seats; a
// worker sits on one. When a worker is lost its seat stays vacant, and a worker that joins takes
// the seat as it is: a restart moves no other expert, and the same workers get the same table
// whenever the coordinator starts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::coordinator {

// The routed part of a model.
struct ExpertShape {
  std::vector<uint32_t> moe_layers;  // indices in the model, ascending
  uint32_t experts_per_layer = 0;

  uint64_t experts() const { return uint64_t{experts_per_layer} * moe_layers.size(); }
  bool operator==(const ExpertShape&) const = default;
};

struct Candidate {
  std::string worker_id;
  uint64_t experts_max = UINT64_MAX;  // how many it has memory for
};

struct Seat {
  std::string worker_id;       // empty: vacant
  uint64_t experts = 0;        // how many are dealt to this seat
  std::string last_worker_id;  // who left it, when vacant
};

struct PlacementTable {
  ExpertShape shape;
  std::vector<Seat> seats;
  // [layers][experts_per_layer]: seats that hold the expert, preferred first.
  std::vector<std::vector<std::vector<uint32_t>>> owners;
};

// Deals every expert to `replicas` different workers, within their memory, evenly over the whole
// model and within each layer. Depends on the set of candidates, not on their order.
// INVALID_ARGUMENT when replicas is 0, RESOURCE_EXHAUSTED when there are fewer workers than
// replicas or too little memory (needed and found in the message).
absl::StatusOr<PlacementTable> DealExperts(const ExpertShape& shape,
                                           std::vector<Candidate> candidates, uint32_t replicas);

// Vacates the seat of `worker_id`. False when it had none.
bool VacateSeat(const std::string& worker_id, PlacementTable* table);

// Puts the worker on a vacant seat that fits its memory, its own of before if that is one. False
// when there is none; then it stays a spare.
bool TakeSeat(const Candidate& worker, PlacementTable* table);

// Deals the experts of vacant seat `seat` to the seated workers that have memory left (`candidates`
// says how much in all), least loaded in the layer first, and removes the seat. RESOURCE_EXHAUSTED
// leaves the table as it was.
absl::Status SpreadSeat(uint32_t seat, const std::vector<Candidate>& candidates,
                        PlacementTable* table);

// Number of (layer, expert) pairs without any seat among `seat_usable` [seats].
uint64_t CountUncovered(const PlacementTable& table, const std::vector<bool>& seat_usable);
// Of those with fewer than `replicas` such seats.
uint64_t CountBelow(const PlacementTable& table, const std::vector<bool>& seat_usable,
                    uint32_t replicas);

}  // namespace tandem::coordinator
