// What every program of the project does the same way: flags with examples and a YAML config file
// behind them, logging set-up, version, one sentence and exit code 2 when it cannot start, SIGTERM
// and SIGINT turned into a flag.
#pragma once

#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/time/time.h"

namespace tandem::base {

// Exit codes: 0 done, 1 failed while running, 2 could not start (bad flag, file, port), 130/143
// ended by SIGINT/SIGTERM twice.
inline constexpr int kExitFailed = 1;
inline constexpr int kExitCannotStart = 2;

// Adds --help (with `examples` at its foot), --version, --config FILE (YAML; keys are the long flag
// names, unknown keys are errors; flags win over the file), --log-level, --log-json. Environment
// variables TANDEM_<FLAG> (dashes as underscores) come between file and flags.
void AddStandardOptions(CLI::App& app, const std::string& examples);

// Parses argv. Returns -1 to go on, or the exit code (help and version: 0, errors: 2 after one
// sentence on stderr).
int ParseOrExitCode(CLI::App& app, int argc, char** argv);

// Prints "program: <message>" on stderr and returns kExitCannotStart.
int CannotStart(const std::string& program, const absl::Status& status);

// Project version with commit, for --version, Describe calls and build_info.
std::string VersionString();

// Installs handlers for SIGINT and SIGTERM; ignores SIGPIPE. A second signal ends the process at
// once.
void InstallStopSignals();
bool StopRequested();
// SIGINT or SIGTERM, whichever came first; 0 before.
int StopSignal();
// Sleeps until a stop is requested or `wait_max` is over; true when requested.
bool WaitForStop(absl::Duration wait_max);
// From now on the end of a child process ends WaitForStopOrChild, once for all that ended
// meanwhile. Call after InstallStopSignals.
void WatchChildren();
bool WaitForStopOrChild(absl::Duration wait_max);

}  // namespace tandem::base
