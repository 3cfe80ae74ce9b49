// Unpacks gzip: HumanEval is published as .jsonl.gz.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tandem::eval {

// More than a data set is ever large; a small file that unpacks to more is an attack or a mistake.
inline constexpr size_t kGunzippedBytesMax = size_t{1} << 30;

// All members of `bytes`. INVALID_ARGUMENT when they are damaged, cut off or larger than the limit.
absl::StatusOr<std::string> Gunzip(std::string_view bytes, size_t bytes_max = kGunzippedBytesMax);

}  // namespace tandem::eval
