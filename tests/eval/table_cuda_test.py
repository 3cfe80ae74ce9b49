#!/usr/bin/env python3
"""The result table on the CUDA backend: the host's command with `-- --backend cuda` behind it, on an emulated device.

One row of each format of linear layers and each kind of attention, on models/quiz in real clusters. Answers and most
likely letters must be the host's where its margin is wider than what rounding does: twice the largest difference that
tests/golden/quiz/MANIFEST.json has between two engines that round in different places, on questions of this quiz.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

BINARIES = pathlib.Path(os.environ.get("TANDEM_BINARY_DIR", "build/release"))
EMULATED_WORKER = BINARIES / "tests/cluster/tandem-gpu-worker-emulated"
ROWS = ["mmlu-1", "mmlu-4", "mmlu-5", "mmlu-6"]  # reference attention; marlin8, marlin4, fp8
QUESTIONS = 2  # the emulator takes two seconds for each


def run_table(out, *behind):
    """The command is the same everywhere; which program the GPU worker is stands in the environment."""
    environment = {**os.environ, "TANDEM_GPU_WORKER_PROGRAM": str(EMULATED_WORKER)} if behind else os.environ
    begun = time.monotonic()
    subprocess.run([BINARIES / "bin/tandem-eval", "table", "--model", "models/quiz", "--suite", "quiz", "--limit",
                    str(QUESTIONS), "--rows", ",".join(ROWS), "--no-noise-run", "--out", out, *behind], check=True,
                   stdout=subprocess.DEVNULL, env=environment, timeout=300)
    print(f"{out.name}: {time.monotonic() - begun:.0f} s", flush=True)


def answers(out, row):
    lines = (out / "runs" / row / "quiz/journal.jsonl").read_text().splitlines()
    return {record["id"]: record for record in map(json.loads, lines)}


def backend(out, row):
    return json.loads((out / "runs" / row / "quiz/manifest.json").read_text())["model"]["backend"]


def compare(row, host, cuda, difference_max):
    assert host.keys() == cuda.keys() and len(host) == QUESTIONS, (row, host.keys(), cuda.keys())
    widest, sure = 0.0, 0
    for question, expected in host.items():
        found = cuda[question]
        assert expected["code"] == found["code"] == 0, (row, expected, found)
        letters = expected["letter_logprobs"]
        widest = max([widest] + [abs(a - b) for a, b in zip(letters, found["letter_logprobs"], strict=True)])
        best, second = sorted(letters, reverse=True)[:2]
        if best - second <= 2 * difference_max:
            continue
        sure += 1
        best_found = max(range(len(letters)), key=lambda i: found["letter_logprobs"][i])
        assert letters[best_found] == best, f"{row} {question}: another letter: {letters} {found['letter_logprobs']}"
        assert expected["text"] == found["text"], f"{row} {question}: {expected['text']!r}, {found['text']!r}"
    assert sure > 0, f"{row}: no question whose answer is sure"
    assert widest <= difference_max, f"{row}: log probabilities differ by {widest:.3g}"
    print(f"  {row}: log probabilities within {widest:.3g} (allowed {difference_max:.3g}), {sure} sure answers alike")


def main():
    noise = json.loads(pathlib.Path("tests/golden/quiz/MANIFEST.json").read_text())["noise"]
    difference_max = 2 * noise["transformers bfloat16: against transformers_f32"]["max_abs_logprob_diff_top8"]
    with tempfile.TemporaryDirectory(prefix="tandem_table_") as folder:
        host, cuda = pathlib.Path(folder) / "host", pathlib.Path(folder) / "cuda"
        run_table(host)
        run_table(cuda, "--", "--backend", "cuda")
        for row in ROWS:
            assert backend(host, row) == "host" and backend(cuda, row) == "cuda (emulated)", (row, backend(cuda, row))
            compare(row, answers(host, row), answers(cuda, row), difference_max)
        assert (cuda / "table.md").read_text().count("\n| ") >= len(ROWS)


if __name__ == "__main__":
    sys.exit(main())
