// What a result table is asked for.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "eval_client/client/endpoint.h"

namespace tandem::eval {

struct TableOptions {
  std::string model;
  std::map<std::string, std::string> row_models;  // of single rows instead of `model`
  std::vector<std::string> recipes = {"deploy/recipes"};
  std::vector<std::string> rows;  // names of recipes; empty: all
  std::vector<std::string> suites = {"quiz"};
  std::string data;  // empty: the quiz's own
  int limit = 0;
  int samples = 1;
  int shots = -1;
  std::map<std::string, std::string> variants;  // by suite
  uint64_t seed = 0;
  int concurrency = 8;
  std::optional<uint32_t> max_tokens;
  std::optional<float> temperature;
  double ready_wait_s = 600;
  double question_timeout_s = 600;
  EndpointOptions baseline;  // address empty: no baseline column
  std::string baseline_name = "baseline";
  bool noise_run = true;                  // the first row once more with another seed
  std::vector<std::string> up_arguments;  // further ones for `tandem up`
  std::string out;                        // empty: eval_runs/table-<time>
  bool resume = false;
  bool json = false;
};

}  // namespace tandem::eval
