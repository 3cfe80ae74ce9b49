"""bench/run without its timings: every column is there and holds what it should, helpers do what they say."""

import csv
import math
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(os.environ.get("TANDEM_SOURCE_DIR", "."))
BINARIES = pathlib.Path(os.environ.get("TANDEM_BINARY_DIR", "build"))
sys.path.insert(0, str(ROOT / "bench"))

from tandem_bench import machine, results  # noqa: E402
from tandem_bench.commands import kernels, peers  # noqa: E402
from tandem_bench.engine_child import EngineChild, EngineFailed  # noqa: E402
from tandem_bench.main import find_commands, parse_threads  # noqa: E402
from tandem_bench.problem import Problem  # noqa: E402

TYPES = ["bf16", "q4_K", "iq1_s", "fp8"]
DOWN_OF_352 = {"bf16": "bf16", "q4_K": "q5_0", "iq1_s": "iq4_nl", "fp8": "f8_e4m3"}  # 352 is no multiple of 256
POSITIVE = ["us_median", "us_best", "us_cpu_median", "gb_s", "gb_s_best", "gflop_s", "gflop_s_best", "read_gb_s",
            "read_gb_s_best", "share_of_read", "share_of_limit", "packed_bytes_per_expert", "stored_bytes_per_expert",
            "arena_bytes", "runs", "wall_s"]


def check(condition, what):
    if not condition:
        print("WRONG", what)
        check.failures += 1


check.failures = 0


def raises(kind, call):
    try:
        call()
    except kind as error:
        return str(error)
    return ""


def check_kernels_csv(folder):
    done = subprocess.run([sys.executable, ROOT / "bench/run", "kernels", "--quick", "--no-build", "--build", BINARIES,
                           "--results", folder, "--types", ",".join(TYPES), "--rows", "1,20", "--threads", "1"],
                          capture_output=True, text=True)
    check(done.returncode == 0, f"bench/run kernels ended with {done.returncode}: {done.stderr}{done.stdout}")
    with open(pathlib.Path(folder) / "kernels.csv", newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        check(reader.fieldnames == kernels.COLUMNS + results.PROVENANCE, f"columns are {reader.fieldnames}")
    cells = {(row["shape"], row["type"], row["rows_per_expert"]) for row in rows}
    check(cells == {(shape, kind, count) for shape in ("tiny", "tiny352") for kind in TYPES for count in ("1", "20")},
          f"cells are {sorted(cells)}")
    for row in rows:
        for column in POSITIVE:
            check(math.isfinite(float(row[column])) and float(row[column]) > 0, f"{column} is {row[column]}")
        check(float(row["us_best"]) <= float(row["us_median"]), f"best over median: {row}")
        check(row["limit"] in ("read", "compute"), f"limit is {row['limit']}")
        check(row["machine"] == machine.machine_name() and row["utc"] and row["commit"], f"no provenance: {row}")
        if row["shape"] == "tiny352":
            check(row["down_type"] == DOWN_OF_352[row["type"]], f"{row['type']} has down type {row['down_type']}")


def check_helpers(folder):
    check({"kernels", "model", "peers"} <= set(find_commands()), f"subcommands are {list(find_commands())}")
    check(parse_threads("1") == [1] and parse_threads("")[0] == 1, "thread counts")
    check("--threads" in raises(Problem, lambda: parse_threads("0")), "no threads at all are refused")
    check("--threads" in raises(Problem, lambda: parse_threads("all")), "words for threads are refused")
    check("q9" in raises(Problem, lambda: kernels.chosen("q4_K,q9", kernels.ALL_TYPES, "--types")), "unknown types")
    check(kernels.chosen("all", ["a", "b"], "--types") == ["a", "b"], "all types")
    check(peers.relative_error([3.0, 4.0], [3.0, 4.0]) == 0.0, "equal outputs have no error")
    check(abs(peers.relative_error([3.0, 5.0], [3.0, 4.0]) - 0.2) < 1e-12, "error relative to the norm")
    file = results.ResultFile(pathlib.Path(folder), "helpers", ["a"])
    check("b" in raises(ValueError, lambda: file.add({"b": 1})), "a column nobody declared is refused")
    check(results.short(0.123456) == "0.1235" and results.short(None) == "", "cells")
    check(machine.last_level_cache_bytes() >= 0 and machine.memory_available_bytes() > 0, "machine")


def check_children():
    """Engines that answer, refuse and die."""
    def python(code):
        return [sys.executable, "-c", code]

    child = EngineChild("echo", python("import sys; print('{\"form\": \"x\"}', flush=True)\n"
                                       "for line in sys.stdin: print('{\"y\": ' + line.strip() + '}', flush=True)"))
    check(child.hello["form"] == "x" and child.ask("7") == {"y": 7}, "a child answers")
    child.close()
    refused = raises(EngineFailed, lambda: EngineChild("no", python("print('{\"unsupported\": \"no q9\"}')")))
    check(refused == "unsupported: no q9", f"a child refuses: {refused}")
    died = raises(EngineFailed, lambda: EngineChild("dead", python("raise SystemExit('out of luck')")))
    check("exit code 1" in died and "out of luck" in died, f"a child dies: {died}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        check_helpers(folder)
        check_children()
        if not (BINARIES / "bin" / kernels.PROGRAM).exists():
            print(f"SKIPPED: {kernels.PROGRAM} is not built in {BINARIES}")
            return 77 if not check.failures else 1
        check_kernels_csv(folder)
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
