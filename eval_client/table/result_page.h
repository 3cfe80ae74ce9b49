// The page's template, carried inside the program so that there is nothing to install or find.
#pragma once

#include <string_view>

namespace tandem::eval {

// result_page.html, with @TABLE_JSON@ where the data goes.
std::string_view ResultPageTemplate();

}  // namespace tandem::eval
