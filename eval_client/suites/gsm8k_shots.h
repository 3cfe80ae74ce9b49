// The solved questions that GSM8K is asked with when they do not come from its own training part.
#pragma once

#include <array>

namespace tandem::eval {

struct Gsm8kShot {
  const char* question;
  const char* answer;
};

inline constexpr int kGsm8kShots = 8;

const std::array<Gsm8kShot, kGsm8kShots>& Gsm8kShotsOfArtifact();

}  // namespace tandem::eval
