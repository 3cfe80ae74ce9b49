"""Command line of bench/run: finds the subcommands and gives each the flags all of them have."""

import argparse
import importlib
import pathlib
import pkgutil
import signal
import sys

from tandem_bench import commands
from tandem_bench.machine import all_cpus
from tandem_bench.paths import default_build_dir, default_results_dir
from tandem_bench.problem import Problem


def find_commands():
    """{name: module} of every module in tandem_bench/commands."""
    names = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    return {name: importlib.import_module(f"{commands.__name__}.{name}") for name in names}


def add_shared_arguments(parser):
    parser.add_argument("--threads", default="", help="thread counts to measure, for example 1,2; default: 1 and all")
    parser.add_argument("--build", type=pathlib.Path, default=default_build_dir(), metavar="DIR",
                        help="CMake build directory, configured as Release when new (default %(default)s)")
    parser.add_argument("--no-build", action="store_true", help="take the programs in --build as they are")
    parser.add_argument("--results", type=pathlib.Path, default=default_results_dir(), metavar="DIR",
                        help="where <name>.csv is written (default %(default)s)")
    parser.add_argument("--quick", action="store_true",
                        help="tiny shapes and few repetitions: tries the program out, measures nothing")


def parse_threads(text):
    cpus = all_cpus()
    if not text:
        return sorted({1, cpus})
    threads = [int(part) if part.isdigit() else 0 for part in text.split(",")]
    if not all(1 <= count <= cpus for count in threads):
        raise Problem(f"--threads must list counts between 1 and the {cpus} processors of this machine, found {text}")
    return threads


def main(argv):
    parser = argparse.ArgumentParser(prog="bench/run", description="Speed of Tandem on this machine.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    modules = find_commands()
    for name, module in modules.items():
        subparser = subparsers.add_parser(name, help=module.HELP, description=module.HELP)
        add_shared_arguments(subparser)
        module.add_arguments(subparser)
    args = parser.parse_args(argv)
    # An order to stop unwinds the stack, so that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        args.threads = parse_threads(args.threads)
        return modules[args.command].run(args)
    except Problem as problem:
        print(f"bench/run {args.command}: {problem}", file=sys.stderr)
        return 2
