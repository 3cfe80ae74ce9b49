"""Builds the C++ programs a benchmark runs."""

import os
import shutil
import subprocess

from tandem_bench.paths import ROOT
from tandem_bench.problem import Problem


def run_step(command, what):
    """Runs a command to its end; its output is shown only when it fails."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace")
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-30:])
        raise Problem(f"{what} failed (exit code {done.returncode}): {' '.join(map(str, command))}\n{tail}")
    return done.stdout


def configure(folder):
    if (folder / "CMakeCache.txt").exists():
        return
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run_step(["cmake", "-S", str(ROOT), "-B", str(folder), *generator, "-DCMAKE_BUILD_TYPE=Release"], "configuring")


def build_programs(args, targets):
    """{target: path of the program}, built now unless --no-build."""
    if not args.no_build:
        print(f"building {', '.join(targets)} in {args.build}", flush=True)
        configure(args.build)
        jobs = str(len(os.sched_getaffinity(0)))
        run_step(["cmake", "--build", str(args.build), "-j", jobs, "--target", *targets], "building")
    programs = {target: args.build / "bin" / target for target in targets}
    for target, path in programs.items():
        if not path.exists():
            raise Problem(f"expected the program {target} at {path}, found none: drop --no-build")
    return programs


def build_type(folder):
    """CMAKE_BUILD_TYPE of a build directory: the figures of an unoptimized build are not worth keeping."""
    for line in (folder / "CMakeCache.txt").read_text().splitlines():
        if line.startswith("CMAKE_BUILD_TYPE:"):
            return line.partition("=")[2]
    return ""
