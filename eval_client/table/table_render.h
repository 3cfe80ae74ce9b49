// The table as people paste it, as programs read it and as a page to look at.
#pragma once

#include <string>

#include "eval_client/table/table_data.h"

namespace tandem::eval {

// GitHub Markdown in the published table's own columns, with what it lacks behind them, then one
// sentence a row. Ends in a line end.
std::string TableMarkdown(const TableData& data);

// Everything, manifests included, as one JSON object.
std::string TableJson(const TableData& data);

// One HTML file without any outside reference, which draws itself from the same JSON.
std::string TablePage(const TableData& data);

}  // namespace tandem::eval
