#!/usr/bin/env python3
"""Checks that the committed quiz test set is what make_data.py makes, and that it is held out."""

import json
import os
import pathlib
import random
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import make_data  # noqa: E402 (needs the path above)

ROOT = HERE.parents[1]
SKIPPED = 77


def main():
    data = pathlib.Path(os.environ.get("TANDEM_DATA", ROOT.parent / "shared/data"))
    facts_path = data / "knowledge/facts.jsonl"
    if not facts_path.exists():
        print(f"skipped: {facts_path} is absent")
        return SKIPPED
    facts = make_data.Facts(facts_path)
    made = facts.test_set()
    lines = (ROOT / "models/quiz/quiz_test.jsonl").read_text(encoding="utf-8").splitlines()
    assert made == [json.loads(line) for line in lines], "quiz_test.jsonl is not what is made now"
    assert len({row["id"] for row in made}) == len(made) == sum(make_data.TEST_ROWS.values())
    for row in made:
        assert len(set(row["choices"])) == 4, row
        if row["subject"] == "arithmetic":
            a, b = map(int, re.search(r"(\d+) \+ (\d+)", row["question"]).groups())
            assert make_data.is_test_problem(a, b), row
        else:
            assert make_data.is_test_pair(row["question"], row["choices"]), row
    for _, subject, _ in facts.train_sums:
        assert not make_data.is_test_problem(*map(int, subject.split(" + "))), subject
    rng = random.Random(3)
    for _ in range(2000):
        entry = rng.choice(facts.entries)
        question, choices, answer = facts.pair(entry, rng, test=False)
        assert choices[answer] == entry[2]
        assert not make_data.is_test_pair(question, choices), (question, choices)
    print(f"{len(made)} test rows are held out of training")
    return 0


if __name__ == "__main__":
    sys.exit(main())
