// TANDEM_CHECK: for bugs of ours. Prints the condition, both values and the place, then aborts, so
// that the orchestrator restarts the process instead of letting it answer wrongly. What the world
// does wrong is an absl::Status. Debian's Abseil (20220623) has no absl/log/check.h, hence this
// header.
#pragma once

#include <sstream>
#include <string>

namespace tandem::base {

// Prints "file:line: CHECK failed: what" to stderr and aborts.
[[noreturn]] void CheckFailed(const char* file, int line, const std::string& what);

template <typename A, typename B>
std::string DescribePair(const char* expression, const A& a, const B& b) {
  std::ostringstream out;
  out << expression << " (" << a << " vs " << b << ")";
  return out.str();
}

}  // namespace tandem::base

#define TANDEM_CHECK(condition)                                    \
  do {                                                             \
    if (!(condition)) [[unlikely]]                                 \
      ::tandem::base::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (false)

// Evaluates each operand once.
#define TANDEM_CHECK_OP(a, op, b)                                               \
  do {                                                                          \
    const auto& tandem_a = (a);                                                 \
    const auto& tandem_b = (b);                                                 \
    if (!(tandem_a op tandem_b)) [[unlikely]]                                   \
      ::tandem::base::CheckFailed(                                              \
          __FILE__, __LINE__,                                                   \
          ::tandem::base::DescribePair(#a " " #op " " #b, tandem_a, tandem_b)); \
  } while (false)

#define TANDEM_CHECK_EQ(a, b) TANDEM_CHECK_OP(a, ==, b)
#define TANDEM_CHECK_NE(a, b) TANDEM_CHECK_OP(a, !=, b)
#define TANDEM_CHECK_LT(a, b) TANDEM_CHECK_OP(a, <, b)
#define TANDEM_CHECK_LE(a, b) TANDEM_CHECK_OP(a, <=, b)
#define TANDEM_CHECK_GT(a, b) TANDEM_CHECK_OP(a, >, b)
#define TANDEM_CHECK_GE(a, b) TANDEM_CHECK_OP(a, >=, b)
