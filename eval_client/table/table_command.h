// `tandem-eval table`: the whole result table by one command.
#pragma once

#include <string>

#include "eval_client/table/table_options.h"

namespace tandem::eval {

// Plans, measures and writes table.md, table.json and table.html into the folder; prints the table
// on stdout and everything else on stderr. Returns the exit code: 0 done, 1 a run broke off, 2
// could not start, 130 interrupted (--resume goes on).
int MakeTable(const TableOptions& options, const std::string& command_line);

}  // namespace tandem::eval
