// The two macros that pass an absl::Status up the stack. Together with the checks of check.h they
// are the only macros of the project.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define TANDEM_RETURN_IF_ERROR(expression)         \
  do {                                             \
    absl::Status tandem_status = (expression);     \
    if (!tandem_status.ok()) return tandem_status; \
  } while (false)

#define TANDEM_CONCAT_INNER(a, b) a##b
#define TANDEM_CONCAT(a, b) TANDEM_CONCAT_INNER(a, b)

// TANDEM_ASSIGN_OR_RETURN(auto x, F()): x = *F(), or return F()'s status.
#define TANDEM_ASSIGN_OR_RETURN(lhs, expression) \
  TANDEM_ASSIGN_OR_RETURN_INNER(TANDEM_CONCAT(tandem_or_, __LINE__), lhs, expression)
#define TANDEM_ASSIGN_OR_RETURN_INNER(temporary, lhs, expression) \
  auto temporary = (expression);                                  \
  if (!temporary.ok()) return temporary.status();                 \
  lhs = std::move(temporary).value()
