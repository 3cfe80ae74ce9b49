"""bench/run gpu without a GPU: packing, the time it keeps to, what it makes of programs that pass, fail and hang.

Programs that stand for the real ones are shell scripts; the real benchmark runs as tandem-bench-gpu-emulated.
"""

import csv
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import types

ROOT = pathlib.Path(os.environ.get("TANDEM_SOURCE_DIR", "."))
sys.path.insert(0, str(ROOT / "bench"))

from tandem_bench import gpu_bundle, gpu_rows  # noqa: E402
from tandem_bench.commands import gpu  # noqa: E402
from tandem_bench.problem import Problem  # noqa: E402

ROW = {"operation": "linear", "format": "fp8", "shape": "o", "rows": 1, "kernels": "hopper", "us_median": 2.0}


def check(condition, what):
    if not condition:
        print("WRONG", what)
        check.failures += 1


check.failures = 0


def script(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def bundle_of(folder, programs):
    """A bundle folder of shell scripts: {name: text}."""
    (folder / "bin").mkdir(parents=True)
    (folder / "lib").mkdir()
    (folder / "commit").write_text("abc\n")
    for name, text in programs.items():
        script(folder / "bin", name, text)
    return folder


def arguments(folder, **changes):
    return types.SimpleNamespace(**{"bundle": folder, "pack": None, "minutes": 0.2, "only": "", "quick": True,
                                    "skip_sanitizer": True, "results": folder / "results", **changes})


def timings_script(code):
    lines = [json.dumps({"device": "Some GPU", "copy_gb_s": 1.0}), json.dumps(ROW)]
    return "\n".join(f"echo '{line}'" for line in lines) + f"\nexit {code}"


def test_sound_machine(folder):
    made = bundle_of(folder, {"cuda_a_test": "exit 0", "cuda_b_test": "exit 0", "tandem-bench-gpu": timings_script(0)})
    check(gpu.run(arguments(made)) == 0, "everything passed and was not said so")
    with open(made / "results" / "gpu_kernels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    check(len(rows) == 1 and rows[0]["device"] == "Some GPU" and rows[0]["us_median"] == "2", f"timings are {rows}")
    check(rows[0]["commit"] == "abc", f"the commit of the bundle is not in {rows}")
    with open(made / "results" / "gpu_checks.csv", newline="") as file:
        checks = [(row["test"], row["tool"], row["verdict"]) for row in csv.DictReader(file)]
    check(checks == [("cuda_a_test", "test", "passed"), ("cuda_b_test", "test", "passed")], f"checks are {checks}")


def test_failures(folder):
    programs = {"cuda_a_test": "echo wrong bits; exit 1", "cuda_b_test": "kill -9 $$",
                "tandem-bench-gpu": timings_script(0)}
    check(gpu.run(arguments(bundle_of(folder, programs))) == 1, "a failed test was not told")
    with open(folder / "results" / "gpu_checks.csv", newline="") as file:
        verdicts = [row["verdict"] for row in csv.DictReader(file)]
    check(verdicts == ["failed", "failed with -9"], f"verdicts are {verdicts}")
    # --list answers, the timings do not.
    unsound = 'if [ "$1" = --list ]; then exit 0; fi\n' + timings_script(1)
    programs = {"cuda_a_test": "exit 0", "tandem-bench-gpu": unsound}
    check(gpu.run(arguments(bundle_of(folder / "unsound", programs))) == 1, "values that are not finite were not told")


def test_hanging_programs(folder):
    programs = {"cuda_a_test": "exec sleep 60", "tandem-bench-gpu": timings_script(0)}
    made = bundle_of(folder, programs)
    clock = gpu.Clock(3)
    check(gpu.run(arguments(made, minutes=0.05)) == 0, "a test that was cut off is not one that failed")
    check(clock.left() > -10, "a program that hangs was waited for")
    with open(made / "results" / "gpu_checks.csv", newline="") as file:
        verdicts = [row["verdict"] for row in csv.DictReader(file)]
    check(verdicts == ["cut off"], f"verdicts are {verdicts}")


def test_no_gpu(folder):
    made = bundle_of(folder, {"cuda_a_test": "exit 77", "tandem-bench-gpu": "exit 77"})
    check(gpu.run(arguments(made)) == 77, "a machine without a GPU was not told")
    check(not (made / "results").exists(), "results were written without a GPU")


def test_sanitizer(folder):
    """compute-sanitizer's own exit code for findings counts as a failure."""
    made = bundle_of(folder, {"cuda_a_test": "exit 0", "tandem-bench-gpu": timings_script(0)})
    script(folder, "compute-sanitizer", 'if [ "$2" = racecheck ]; then exit 86; fi')
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{path}"
    try:
        check(gpu.run(arguments(made, skip_sanitizer=False)) == 1, "a race was not told")
    finally:
        os.environ["PATH"] = path
    with open(made / "results" / "gpu_checks.csv", newline="") as file:
        found = [(row["tool"], row["verdict"]) for row in csv.DictReader(file)]
    check(found == [("test", "passed"), ("memcheck", "passed"), ("racecheck", "failed")], f"checks are {found}")


def test_packing(folder):
    """A packed program finds its libraries in the bundle; what belongs to the other machine stays behind."""
    built = gpu_bundle.Bundle([pathlib.Path("/usr/bin")], None, "abc")
    libraries = dict(gpu_bundle.needed_libraries(subprocess.run(
        ["ldd", "/usr/bin/cmake"], capture_output=True, text=True, check=True).stdout))
    check("libstdc++.so.6" in libraries and "libc.so.6" not in libraries, f"libraries of cmake: {libraries}")
    try:
        gpu_bundle.needed_libraries("\tlibnone.so.1 => not found\n")
        check(False, "a missing library was not told")
    except Problem as problem:
        check("libnone.so.1" in str(problem), f"the problem does not name the library: {problem}")
    check(gpu_bundle.needed_libraries("\tlibcublasLt.so.13 => not found\n") == [], "cuBLASLt is not to be packed")
    check(built.program("true") == pathlib.Path("/usr/bin/true"), "a program was not found")
    names = gpu_bundle.device_tests_of("... cuda_rows_test\ncuda_rows_test: phony\nemulated_rows_test: phony\n")
    check(names == ["cuda_rows_test"], f"device tests are {names}")


def test_archive(folder):
    """What is packed into one file runs from it, and a damaged file is told."""
    made = bundle_of(folder / "built", {"cuda_a_test": "exit 0", "tandem-bench-gpu": timings_script(0)})
    archive = folder / "bundle.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(made, ".")
    results = folder / "results"
    check(gpu.run(arguments(archive, results=results)) == 0, "an archive's programs did not pass")
    check((results / "gpu_kernels.csv").exists(), "an archive's results are not where they were asked for")
    archive.write_bytes(archive.read_bytes()[:archive.stat().st_size // 2])
    try:
        gpu.run(arguments(archive, results=results))
        check(False, "a cut archive was not told")
    except Problem as problem:
        check(str(archive) in str(problem), f"the problem does not name the archive: {problem}")


def test_rows():
    rows, other = gpu_rows.timing_rows("warning\n" + json.dumps({"device": "G"}) + "\n" + json.dumps(ROW) + "\n1\n")
    check(len(rows) == 1 and rows[0]["device"] == "G", f"rows are {rows}")
    check(len(other) == 3, f"other lines are {other}")


def test_emulated_benchmark():
    """Every row of the real program has columns the CSV knows, and none is missing."""
    program = pathlib.Path(os.environ["TANDEM_BINARY_DIR"]) / "bin" / "tandem-bench-gpu-emulated"
    done = subprocess.run([program, "--quick", "--only", "rows/"], capture_output=True, text=True, timeout=120)
    rows, _ = gpu_rows.timing_rows(done.stdout)
    check(done.returncode == 0 and rows, f"the emulated benchmark ended with {done.returncode}: {done.stderr}")
    needs_vendor = {"peak_tflop_s", "share_of_peak", "limit", "share_of_limit"}
    for row in rows:
        check(set(row) | needs_vendor == set(gpu_rows.COLUMNS), f"columns are {sorted(row)}")


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for test in (test_sound_machine, test_failures, test_hanging_programs, test_no_gpu, test_sanitizer,
                     test_packing, test_archive):
            test(folder / test.__name__)
    test_rows()
    test_emulated_benchmark()
    print(f"{check.failures} checks failed")
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
