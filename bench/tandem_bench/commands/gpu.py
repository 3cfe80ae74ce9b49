"""bench/run gpu: the CUDA kernels on this machine's GPU: device tests, timings beside rooflines, sanitizers."""

import concurrent.futures
import pathlib
import shutil
import subprocess
import time

from tandem_bench.gpu_bundle import Bundle, pack
from tandem_bench.gpu_rows import CHECK_COLUMNS, COLUMNS, TABLE, folder_name, timing_rows
from tandem_bench.paths import default_results_dir
from tandem_bench.problem import Problem
from tandem_bench.results import ResultFile, print_table

HELP = "the CUDA kernels: their tests on the GPU, their speed beside measured rooflines, compute-sanitizer"

NO_GPU = 77  # exit code of programs that found none, and of this command then
SANITIZERS = ("memcheck", "racecheck")
SANITIZER_ERROR = 86  # exit code asked of compute-sanitizer when it found something
TESTS_AT_ONCE = 4
TEST_SECONDS_MAX = 120
SANITIZER_SECONDS_MAX = 90
TESTS_SHARE, TIMINGS_SHARE = 0.3, 0.8  # of all the time, gone when tests and timings must be over


def add_arguments(parser):
    parser.add_argument("--bundle", type=pathlib.Path, metavar="PATH", help="programs packed before, nothing is built")
    parser.add_argument("--pack", type=pathlib.Path, metavar="PATH",
                        help="build, pack programs and libraries for a machine that cannot build, and end: into a "
                        "folder, or into one file where PATH ends with .tar.xz (takes a minute, an eighth of the size)")
    parser.add_argument("--whole", action="store_true",
                        help="build with gRPC and models, for the whole backend's tests, too")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for everything (%(default)s)")
    parser.add_argument("--only", default="", help="timings whose name contains this; tandem-bench-gpu --list has all")
    parser.add_argument("--skip-sanitizer", action="store_true", help="no compute-sanitizer")


class Clock:
    """How much of the time is left until some share of it is gone."""

    def __init__(self, seconds):
        self.start, self.seconds = time.monotonic(), seconds

    def left(self, share=1.0):
        return self.start + share * self.seconds - time.monotonic()


def run_program(command, seconds, bundle):
    """(exit code or None when it was cut off, output, seconds taken)."""
    start = time.monotonic()
    try:
        done = subprocess.run([str(word) for word in command], timeout=max(seconds, 1), env=bundle.environment(),
                              cwd=bundle.source_dir, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        code, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as cut:
        code, output = None, cut.stdout or b""
    return code, output.decode(errors="replace"), time.monotonic() - start


def verdict(code, bad=1):
    if code is None:
        return "cut off"
    return {0: "passed", NO_GPU: "no gpu"}.get(code, "failed" if code in (1, bad) else f"failed with {code}")


def check_all(jobs, seconds_max, clock, share, bundle, results):
    """Runs (tool, test, command) jobs a few at a time; prints the end of what fails. Returns the rows."""
    rows = []

    def run_one(job):
        tool, test, command = job
        seconds = min(seconds_max, clock.left(share))
        if seconds <= 0:
            return {"test": test, "tool": tool, "verdict": "no time left", "seconds": 0.0}, ""
        code, output, taken = run_program(command, seconds, bundle)
        return {"test": test, "tool": tool, "verdict": verdict(code, SANITIZER_ERROR), "seconds": taken}, output

    with concurrent.futures.ThreadPoolExecutor(TESTS_AT_ONCE) as pool:
        for row, output in pool.map(run_one, jobs):
            results.add(row)
            rows.append(row)
            print(f"  {row['tool']} {row['test']}: {row['verdict']} after {row['seconds']:.1f} s", flush=True)
            if row["verdict"].startswith("failed"):
                print("\n".join(output.splitlines()[-60:]), flush=True)
    return rows


def run_timings(args, clock, bundle, results):
    """Rows as the program prints them; (rows, sound)."""
    command = [bundle.program("tandem-bench-gpu")] + (["--quick"] if args.quick else [])
    command += ["--only", args.only] if args.only else []
    code, output, _ = run_program(command, clock.left(TIMINGS_SHARE), bundle)
    rows, complaints = timing_rows(output)
    for row in rows:
        results.add(row)
    for line in complaints:
        print(line)
    if code is None:
        print(f"  timings were cut off after {len(rows)} rows: give more --minutes, or --only")
    return rows, code in (0, None)


def sanitizer_jobs(bundle):
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        print("  compute-sanitizer is not here: nothing was checked with it")
        return []
    return [(name, test, [tool, "--tool", name, "--error-exitcode", str(SANITIZER_ERROR), bundle.program(test)])
            for name in SANITIZERS for test in bundle.tests()]


def run(args):
    bundle = Bundle.packed(args.bundle) if args.bundle else Bundle.built(args)
    if args.pack:
        print(f"packed: {pack(bundle, args.pack)}")
        return 0
    tests = bundle.tests()
    if not tests:
        raise Problem(f"expected programs cuda_*_test in {bundle.bin_dir}, found none")
    code, output, _ = run_program([bundle.program("tandem-bench-gpu"), "--list"], 60, bundle)
    if code == NO_GPU:
        print(output.strip())
        print("bench/run gpu: there is no GPU here; nothing was checked and nothing was timed")
        return NO_GPU
    if code != 0:
        raise Problem(f"tandem-bench-gpu --list ended with {code}: {output.strip()[-500:]}")
    return measure(args, bundle, tests)


def measure(args, bundle, tests):
    clock = Clock(args.minutes * 60)
    folder = args.results
    if folder == default_results_dir():  # of this processor, which has no part in these figures
        folder = folder.parent / folder_name(bundle)
    checks = ResultFile(folder, "gpu_checks", CHECK_COLUMNS)
    timings = ResultFile(folder, "gpu_kernels", COLUMNS)
    for results in (checks, timings):
        results.provenance.update(commit=bundle.commit, machine=folder.name)
    jobs = [("test", test, [bundle.program(test), "--gtest_brief=1"]) for test in tests]
    rows = check_all(jobs, TEST_SECONDS_MAX, clock, TESTS_SHARE, bundle, checks)
    timed, sound = run_timings(args, clock, bundle, timings)
    if not args.skip_sanitizer:
        rows += check_all(sanitizer_jobs(bundle), SANITIZER_SECONDS_MAX, clock, 1.0, bundle, checks)
    print_table(timed, TABLE)
    print(f"written: {checks.path} and {timings.path}")
    bad = [row for row in rows if row["verdict"].startswith("failed")]
    print(f"{len(rows)} checks, {len(bad)} failed; {len(timed)} timings" + ("" if sound else ", some unsound"))
    return 1 if bad or not sound or not timed else 0
