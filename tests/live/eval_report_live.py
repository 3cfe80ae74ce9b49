#!/usr/bin/env python3
"""Compares the statistics that `tandem-eval report` prints with scipy's, on random answers."""

import json
import pathlib
import random
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import live_support  # noqa: E402

MODEL = {
    "name": "m",
    "type": "t",
    "digest": "d",
    "expert_formats": "bf16",
    "precision": "bf16",
    "attention": "flash",
    "context_tokens": 1,
    "vocab_size": 1,
    "cpu_workers": 1,
    "gpu_workers": 1,
    "server_version": "0",
}
PAIRS = 20  # of runs compared


def write_run(folder, letters):
    """A run in which question i, whose right answer is A, was answered with letters[i]."""
    folder.mkdir()
    manifest = {
        "tool_version": "0",
        "suite": "quiz",
        "data_path": "",
        "data_sha256": "",
        "prompts_sha256": "p",
        "questions": len(letters),
        "headline_parser": "strict",
        "endpoint": "",
        "model": MODEL,
        "sampling": {"temperature": 0.0, "max_tokens": 1, "seed": 0},
        "concurrency": 1,
        "host": {"cpu": "", "cores": 1},
        "sessions": [],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with open(folder / "journal.jsonl", "w", encoding="utf-8") as journal:
        for i, letter in enumerate(letters):
            record = {
                "id": f"q{i}",
                "subject": f"s{i % 3}",
                "gold": "A",
                "seed": 0,
                "code": 0,
                "error": "",
                "text": letter,
                "finish": "stop",
                "prompt_tokens": 1,
                "completion_tokens": 1,
                "queue_us": 0,
                "first_token_us": 0,
                "total_us": 0,
                "wall_us": 0,
                "attempts": 1,
            }
            journal.write(json.dumps(record) + "\n")


def report(*arguments):
    return subprocess.run(
        [live_support.program("tandem-eval"), "report", *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def check_intervals(folder, letters):
    counts = json.loads(report(folder, "--json"))["total"]
    from scipy.stats import binomtest

    expected = binomtest(letters.count("A"), len(letters)).proportion_ci(0.95, method="wilson")
    assert counts["correct"] == letters.count("A"), counts
    assert abs(counts["percent_low95"] - 100 * expected.low) < 1e-9, (counts, expected)
    assert abs(counts["percent_high95"] - 100 * expected.high) < 1e-9, (counts, expected)


def check_comparison(folder, baseline, first, second):
    from scipy.stats import binomtest

    only_first = sum(a == "A" and b != "A" for a, b in zip(first, second))
    only_second = sum(a != "A" and b == "A" for a, b in zip(first, second))
    expected = (
        binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
    )
    text = report(folder, "--against", baseline)
    assert f"p = {expected:.4f} " in text, (expected, text)


def main():
    live_support.parse_arguments(__doc__)
    checks = live_support.Checks()
    draw = random.Random(20261125)
    with checks.guarded("statistics"):
        for _ in range(PAIRS):
            with tempfile.TemporaryDirectory() as scratch:
                runs = []
                size, share = draw.randint(1, 400), draw.random()
                for name in ("first", "second"):
                    letters = [("A" if draw.random() < share else "B") for _ in range(size)]
                    folder = pathlib.Path(scratch, name)
                    write_run(folder, letters)
                    check_intervals(folder, letters)
                    runs.append((folder, letters))
                check_comparison(runs[0][0], runs[1][0], runs[0][1], runs[1][1])
        checks.expect(
            "statistics", True, f"intervals and p-values of {PAIRS} pairs of runs agree with scipy"
        )
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())
