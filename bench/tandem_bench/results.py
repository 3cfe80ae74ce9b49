"""Results as CSV files that keep what a figure depends on, and as tables for people."""

import csv
import datetime
import subprocess

from tandem_bench.machine import machine_name
from tandem_bench.paths import ROOT

PROVENANCE = ["utc", "commit", "machine"]


def git_commit():
    """Short commit id of the sources, `+` when files differ from it; `none` outside a repository."""
    git = ["git", "-C", str(ROOT)]
    done = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True)
    if done.returncode != 0:
        return "none"
    changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True)
    return done.stdout.strip() + ("+" if changed.stdout.strip() else "")


def short(value):
    """A CSV or table cell: four significant digits say all a measurement knows."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10000 else f"{value:.0f}"
    return "" if value is None else str(value)


class ResultFile:
    """<folder>/<name>.csv, replaced by this run; every row is on disk as soon as it is measured."""

    def __init__(self, folder, name, columns):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.csv"
        self.columns = columns + PROVENANCE
        self.rows = []
        self.provenance = {"commit": git_commit(), "machine": machine_name()}
        with open(self.path, "w", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writeheader()

    def add(self, row):
        unknown = set(row) - set(self.columns)
        if unknown:
            raise ValueError(f"{self.path.name} has no column {', '.join(sorted(unknown))}")
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.rows.append({**row, **self.provenance, "utc": now})
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writerow({column: short(self.rows[-1].get(column)) for column in self.columns})


def print_table(rows, columns):
    """Rows as aligned text; `columns` maps a key of the rows to its heading."""
    cells = [list(columns.values())] + [[short(row.get(key)) for key in columns] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        print("  ".join(cell.rjust(width) if i else cell.ljust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))).rstrip())
