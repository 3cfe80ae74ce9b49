// Whether two files hold weights of one network: experts from one file are only then experts of the
// dense layers of another.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "lib/model/config.h"

namespace tandem {

// INVALID_ARGUMENT: one sentence naming the first field that differs, with both values and files.
// Not compared is what containers spell differently or leave out and weights do not depend on:
// names, token ids, context length, multi-token-prediction layers, fp8 blocks, the RoPE layout. The
// routing fields are compared when `routing`: files without routers do not know them.
absl::Status CheckSameNetwork(const ModelConfig& dense, const std::string& dense_file,
                              const ModelConfig& experts, const std::string& experts_file,
                              bool routing);

}  // namespace tandem
