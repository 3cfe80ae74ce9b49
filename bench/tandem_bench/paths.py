"""Where things lie: sources, builds, results, and the files too large for the tree."""

import os
import pathlib

from tandem_bench.machine import machine_name

ROOT = pathlib.Path(__file__).resolve().parents[2]


def default_build_dir():
    return pathlib.Path(os.environ.get("TANDEM_BENCH_BUILD") or ROOT / "build" / "bench")


def default_results_dir():
    return ROOT / "bench" / "results" / machine_name()


def cache_dir():
    """Synthetic models, expert weights and sources of other engines: never in the tree. Made when missing."""
    folder = pathlib.Path(os.environ.get("TANDEM_BENCH_DIR") or "~/.cache/tandem/bench").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def venv_dir():
    """The virtual environment the other engines are installed in."""
    return pathlib.Path(os.environ.get("TANDEM_VENV_DIR") or "~/.cache/tandem/bench-venv").expanduser()
