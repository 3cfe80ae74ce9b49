// The digest that tells whether two programs opened the same weights. It is an identity check
// against mixed-up files, not a proof against tampering: it reads samples, because hashing 400 GB
// would delay every start by minutes.
#pragma once

#include <string>

#include "lib/model/config.h"
#include "lib/model/tensor_source.h"

namespace tandem {

// How many samples of kDigestSampleBytes bytes each tensor of a file with `tensor_count` tensors
// gives: about 8192 in all, between 1 and 8 per tensor.
inline constexpr int64_t kDigestSampleBytes = 64;
int64_t DigestSamplesPerTensor(int64_t tensor_count);

// SHA-256 in hex over: "tandem-weights-1\n", CanonicalConfigText(config), then per tensor in order
// of names
// "<name> <type> <dims,> <bytes>\n" and its samples. Sample i of n starts at floor((bytes - 64) /
// (2n)) * (2i + 1), the middles of n equal parts; tensors of up to 64 n bytes are hashed whole.
std::string WeightsDigest(const ModelConfig& config, const TensorSource& source);

// The same for a model whose routed experts come from another source: "tandem-weights-2\n", the
// config, "dense\n" and `dense`'s tensors that are not routed experts', "experts\n" and `experts`'
// tensors that are; samples per tensor by the number of tensors on each side.
std::string WeightsDigest(const ModelConfig& config, const TensorSource& dense,
                          const TensorSource& experts);

}  // namespace tandem
