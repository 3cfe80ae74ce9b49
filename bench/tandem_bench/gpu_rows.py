"""Rows of bench/run gpu: what tandem-bench-gpu prints, and where results of which GPU go."""

import json
import re
import subprocess

COLUMNS = """operation format shape rows kernels us_median us_best us_warm_median gb_s tflop_s copy_gb_s share_of_copy
    peak_tflop_s share_of_peak limit share_of_limit error_vs_reference finite copies launches replays device""".split()
CHECK_COLUMNS = ["test", "tool", "verdict", "seconds"]
TABLE = {"operation": "operation", "format": "format", "shape": "shape", "rows": "rows", "kernels": "kernels",
         "us_median": "us", "us_warm_median": "warm us", "gb_s": "GB/s", "tflop_s": "TFLOP/s", "limit": "limit",
         "share_of_limit": "of limit", "error_vs_reference": "error"}


def timing_rows(output):
    """(rows, lines that are none): the first JSON line says which device it was."""
    rows, other, device = [], [], ""
    for line in output.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            other.append(line)
        elif "operation" in row:
            rows.append({**row, "device": device})
        else:
            device = row.get("device", "")
            other.append(line)
    return rows, other


def folder_name(bundle):
    """Of the results of this machine's GPU: its name as the driver tells it."""
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True,
                              text=True, timeout=30, env=bundle.environment())
        name = done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout.strip() else "unknown gpu"
    except (OSError, subprocess.TimeoutExpired):
        name = "unknown gpu"
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))
