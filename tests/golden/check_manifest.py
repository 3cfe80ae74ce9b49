#!/usr/bin/env python3
"""Checks that the committed whole-model vectors are complete and unchanged since they were made."""

import hashlib
import json
import pathlib
import sys

LOGITS = pathlib.Path(__file__).resolve().parent / "logits"


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


def main():
    models = json.loads((LOGITS / "MANIFEST.json").read_text())["models"]
    assert set(models) == {d.name for d in LOGITS.iterdir() if d.is_dir()}
    for name, report in models.items():
        check_model(name, report)
    print(f"{len(models)} models are as they were made")
    return 0


if __name__ == "__main__":
    sys.exit(main())
