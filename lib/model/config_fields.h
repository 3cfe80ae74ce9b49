// The integer fields of ModelConfig with their config.json names and limits, in one table, so that
// reading, checking, writing and hashing a config can never disagree about a field.
#pragma once

#include <cstdint>
#include <span>

#include "lib/model/config.h"

namespace tandem {

struct ConfigIntField {
  const char* key;  // in config.json
  int64_t ModelConfig::*member;
  int64_t min;
  int64_t max;  // far above any published model, low enough that products of three fit int64
};

std::span<const ConfigIntField> ConfigIntFields();

// "softmax", "sigmoid"; "greedy", "group_limited_greedy", "noaux_tc": as config.json spells them.
const char* NameOf(ScoringFunc scoring);
const char* NameOf(TopkMethod method);

// Every field but `name` and `assumptions` as "key=value" lines, doubles exact: equal text means an
// equal network.
std::string CanonicalConfigText(const ModelConfig& config);

}  // namespace tandem
