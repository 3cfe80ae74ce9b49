#include "lib/model/printable_name.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "lib/base/text.h"

namespace tandem {

std::string PrintableName(std::string_view name) {
  constexpr size_t kBytesMax = 100;
  const bool cut = name.size() > kBytesMax;
  return absl::StrCat("'", absl::CHexEscape(base::ToAbsl(name.substr(0, kBytesMax))),
                      cut ? "..." : "", "'");
}

}  // namespace tandem
