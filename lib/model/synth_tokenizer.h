// A vocabulary for models with random weights: the 256 bytes, one merge, the special tokens the
// config names, two chat roles, and filler. It says nothing sensible, but every program that needs
// a tokenizer can start.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/model/config.h"
#include "lib/model/gguf_writer.h"

namespace tandem {

struct SynthVocabulary {
  std::vector<std::string> tokens;  // by id, in the byte-level alphabet; special tokens as they are
  std::vector<bool> special;        // by id
  std::vector<std::string> merges;  // "left right"
  int64_t bos_id = -1;              // -1: none
  std::vector<int64_t> eos_ids;
};

// Special ids are where the config puts them; INVALID_ARGUMENT when vocab_size leaves no room for
// the 256 bytes.
absl::StatusOr<SynthVocabulary> MakeSynthVocabulary(const ModelConfig& config);

// UNIMPLEMENTED for more than three end tokens: GGUF has names for three.
absl::StatusOr<GgufKeyValues> GgufTokenizerKeys(const SynthVocabulary& vocabulary,
                                                const ModelConfig& config);

std::string TokenizerJson(const SynthVocabulary& vocabulary);
std::string TokenizerConfigJson(const SynthVocabulary& vocabulary, const ModelConfig& config);

}  // namespace tandem
