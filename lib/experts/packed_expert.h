// PackedExpert: one routed expert as the worker computes with it.
#pragma once

#include <cstdint>

#include "lib/kernels/packed.h"

namespace tandem {

struct PackedExpert {
  kernels::PackedMatrix gate;  // [inter, hidden]
  kernels::PackedMatrix up;    // [inter, hidden]
  kernels::PackedMatrix down;  // [hidden, inter]
  int node = 0;                // memory node its bytes lie on, counted from 0

  int64_t bytes() const { return gate.layout.bytes() + up.layout.bytes() + down.layout.bytes(); }
};

}  // namespace tandem
