#!/usr/bin/env python3
"""`tandem-eval table` killed at random moments and resumed says what one left alone says.

Two rows and the run under another seed on models/quiz, in real clusters. The client, the whole cluster, or one of its
processes is killed with SIGKILL at a random moment, again and again, until the table is done; then every question
stands in the journals exactly once, and all that does not measure time equals the table of an undisturbed run.
"""
import difflib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

BINARIES = pathlib.Path(os.environ.get("TANDEM_BINARY_DIR", "build/release")) / "bin"
QUESTIONS = 40
KILLS = 5
SEED = int(os.environ.get("TANDEM_KILL_SEED", "1"))
LEFT_OUT = {"generated_tokens_per_s", "prompt_tokens_per_s", "questions_per_s", "seconds_per_question", "manifest",
            "made"}


def command(out, *more):
    return [BINARIES / "tandem-eval", "table", "--model", "models/quiz", "--suite", "quiz", "--limit", str(QUESTIONS),
            "--rows", "mmlu-3,mmlu-7", "--concurrency", "2", "--out", out, *more]


def timeless(value):
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in LEFT_OUT}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def descendants(pid):
    children = [int(child) for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children")
                for child in task.read_text().split()]
    return [found for child in children for found in [child, *descendants(child)]]


def name_of(pid):
    return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()


def kill_something(chooser, client):
    """The client in half of the cases, otherwise a process of its cluster, the launcher included."""
    try:
        victims = descendants(client.pid)
        victim = client.pid if not victims or chooser.random() < 0.5 else chooser.choice(victims)
        print(f"  kills {name_of(victim)}", flush=True)
        os.kill(victim, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        pass  # ended by itself meanwhile


def run_disturbed(out):
    chooser = random.Random(SEED)
    kills = 0
    resume = []
    while True:
        client = subprocess.Popen(command(out, *resume), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while kills < KILLS and client.poll() is None:
            try:
                client.wait(timeout=chooser.uniform(0.3, 3.0))
            except subprocess.TimeoutExpired:
                kill_something(chooser, client)
                kills += 1
        _, said = client.communicate(timeout=300)
        if client.returncode == 0:
            return kills
        if kills >= KILLS and client.returncode > 0:
            raise SystemExit(f"ended with {client.returncode} though nothing was killed:\n{said}")
        resume = ["--resume"] if (pathlib.Path(out) / "plan.json").exists() else []


def check_journals(out):
    journals = sorted(pathlib.Path(out).glob("runs/*/quiz/journal.jsonl"))
    assert len(journals) == 3, journals
    for journal in journals:
        records = [json.loads(line) for line in journal.read_text().splitlines()]
        answered = [record["id"] for record in records if record["code"] == 0]
        assert len(answered) == len(set(answered)) == QUESTIONS, f"{journal}: {len(answered)} answers"


def main():
    with tempfile.TemporaryDirectory(prefix="tandem_table_") as folder:
        calm, stormy = f"{folder}/calm", f"{folder}/stormy"
        subprocess.run(command(calm), check=True, stdout=subprocess.DEVNULL, timeout=300)
        begun = time.monotonic()
        kills = run_disturbed(stormy)
        check_journals(calm)
        check_journals(stormy)
        tables = [timeless(json.loads(pathlib.Path(f"{out}/table.json").read_text())) for out in (calm, stormy)]
        if tables[0] != tables[1]:
            texts = [json.dumps(table, indent=1).splitlines() for table in tables]
            raise SystemExit("\n".join(["the resumed table differs:", *difflib.unified_diff(*texts, lineterm="", n=2)]))
        print(f"the same table after {kills} kills in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
