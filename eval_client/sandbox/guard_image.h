// The bytes of the guard library, carried inside the program so that there is nothing to install,
// find or confuse.
#pragma once

#include <string_view>

namespace tandem::eval {

std::string_view GuardImage();

}  // namespace tandem::eval
