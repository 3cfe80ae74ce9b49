// Many comparisons at once: a table of ten rows has forty-five pairs, and with that many looks at
// chance one of them will seem significant. Holm's correction keeps the chance of any false alarm
// in the whole family at the level the reader has in mind.
#pragma once

#include <vector>

namespace tandem::eval {

// Adjusted p values in the order of the given ones: each may be compared with the wanted level as
// if it were the only one (S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure",
// Scandinavian Journal of Statistics 6, 1979). CHECKs that every value is within [0, 1].
std::vector<double> HolmAdjusted(const std::vector<double>& p_values);

}  // namespace tandem::eval
