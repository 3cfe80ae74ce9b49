#!/usr/bin/env python3
"""Checks that the committed whole-model vectors are complete and belong to the committed models."""

import hashlib
import json
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent
LOGITS, QUIZ, QUIZ_MODEL = HERE / "logits", HERE / "quiz", HERE.parents[1] / "models/quiz"
PROMPTS, TOP = 200, 64   # as in make_quiz_reference.py


def check_model(name, report):
    folder = LOGITS / name
    assert {f.name for f in folder.iterdir()} == set(report["files"]), f"{name}: other files"
    for file, facts in report["files"].items():
        data = (folder / file).read_bytes()
        assert len(data) == facts["bytes"], f"{name}/{file}: {len(data)} bytes"
        assert hashlib.sha256(data).hexdigest() == facts["sha256"], f"{name}/{file} was changed"
    config = json.loads((folder / "config.json").read_text())
    expected = json.loads((folder / "expected.json").read_text())
    tokens, vocab = expected["logits_shape"]
    assert vocab == config["vocab_size"] and tokens == len(expected["tokens"])
    assert (folder / "logits.f64").stat().st_size == 8 * tokens * vocab
    assert expected["tokens"][expected["prompt_length"]:] == expected["greedy"]
    layers = range(config["first_k_dense_replace"], config["num_hidden_layers"])
    assert list(expected["experts"]) == [str(layer) for layer in layers]
    for rows in expected["experts"].values():
        assert len(rows) == tokens
        assert all(len(set(row)) == config["num_experts_per_tok"] and
                   max(row) < config["n_routed_experts"] for row in rows)


def check_quiz():
    """The vectors must be of the committed files, complete, sorted, and as accurate as noted."""
    manifest = json.loads((QUIZ / "MANIFEST.json").read_text())
    for kind in ("q8_0", "q4_K_M", "iq1_s"):
        file = QUIZ_MODEL / "gguf" / f"quiz-{kind.upper()}.gguf"
        committed = hashlib.sha256(file.read_bytes()).hexdigest()
        assert committed == manifest["gguf_sha256"][kind], f"vectors are of another {file.name}"
    prompts = json.loads((QUIZ / "prompts.json").read_text())
    assert len(prompts["tokens"]) == len(prompts["answer_token"]) == PROMPTS
    for variant, accuracy in manifest["accuracy_of_these_prompts"].items():
        ids = struct.unpack(f"<{PROMPTS * TOP}H", (QUIZ / f"{variant}.ids.u16").read_bytes())
        logprobs = struct.unpack(f"<{PROMPTS * TOP}f",
                                 (QUIZ / f"{variant}.logprob.f32").read_bytes())
        rows = [logprobs[i * TOP:(i + 1) * TOP] for i in range(PROMPTS)]
        assert all(row == tuple(sorted(row, reverse=True)) and row[0] <= 0 for row in rows)
        hits = sum(ids[i * TOP] == right for i, right in enumerate(prompts["answer_token"]))
        assert hits == round(accuracy * PROMPTS), f"{variant}: {hits} right answers"
    return len(manifest["accuracy_of_these_prompts"])


def main():
    models = json.loads((LOGITS / "MANIFEST.json").read_text())["models"]
    assert set(models) == {d.name for d in LOGITS.iterdir() if d.is_dir()}
    for name, report in models.items():
        check_model(name, report)
    print(f"{len(models)} tiny models and {check_quiz()} quiz variants are as they were made")
    return 0


if __name__ == "__main__":
    sys.exit(main())
