#!/usr/bin/env python3
"""Quantises the quiz model's bfloat16 GGUF with llama.cpp's own quantiser.

The type mix of each kind is therefore exactly that of stock files. iq1_s needs to know which
inputs of a matrix matter: it gets an importance matrix, the mean square of every input column
over training prompts, collected from the torch model. Run on one thread the result is the same
bytes every time.
"""

import argparse
import ctypes
import json
import pathlib
import random

KINDS = {"q8_0": 7, "q4_K_M": 15, "iq1_s": 24}   # llama_ftype numbers
PROMPTS, PROMPT_SEED = 256, 11

MATRIX_NAMES = {   # name inside quiz_model.py -> GGUF tensor
    "q_a_proj": "attn_q_a", "q_b_proj": "attn_q_b", "kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "kv_b_proj": "attn_v_b", "o_proj": "attn_output", "gate_proj": "ffn_gate_shexp",
    "up_proj": "ffn_up_shexp", "down_proj": "ffn_down_shexp",
    "experts.gate_proj": "ffn_gate_exps", "experts.up_proj": "ffn_up_exps",
    "experts.down_proj": "ffn_down_exps"}


def importance(model_dir, facts_path):
    """GGUF tensor name -> mean squares, [columns] or [experts * columns] for stacked experts."""
    import tokenizers
    import torch

    import make_data
    from quiz_model import QuizModel
    from train import Batches, load
    torch.set_num_threads(1)
    shape, weights = load(model_dir)
    sums, rows_seen = {}, {}

    def observe(layer, name, rows, expert):
        if name == "gate":
            return
        if layer is None:
            target = "output"
        elif layer < shape.first_k_dense_replace:
            target = f"blk.{layer}." + MATRIX_NAMES[name].replace("_shexp", "")
        else:
            target = f"blk.{layer}." + MATRIX_NAMES[name]
        count = 1 if expert is None else shape.n_routed_experts
        total = sums.setdefault(target, torch.zeros(count, rows.shape[1], dtype=torch.float64))
        total[expert or 0] += rows.double().square().sum(0)
        seen = rows_seen.setdefault(target, torch.zeros(count, 1, dtype=torch.float64))
        seen[expert or 0] += rows.shape[0]

    model = QuizModel(shape, weights, observe=observe)
    tokenizer = tokenizers.Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    batches = Batches(make_data.Facts(facts_path), tokenizer, random.Random(PROMPT_SEED))
    with torch.no_grad():
        for _ in range(PROMPTS // 32):
            tokens = batches.choice(32, 0.0, 0, 0.1)[0]
            model.forward(tokens, batches.prefix)
    for name in [n for n in sums if n.endswith("attn_v_b")]:   # stored per head, same input
        sums[name] = sums[name].repeat(shape.num_attention_heads, 1)
    # An expert that no prompt chose has no statistics: treat its columns as equally important.
    return {f"{name}.weight": torch.where(rows_seen[name] > 0, total / rows_seen[name].clamp(min=1),
                                          1.0).flatten().float().numpy()
            for name, total in sums.items()}


def quantise(source, out, kind, matrix):
    import llama_cpp
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread, params.ftype = 1, KINDS[kind]
    if matrix:
        # Terminated by an entry without a name.
        entries = (llama_cpp.llama_model_imatrix_data * (len(matrix) + 1))()
        for entry, (name, values) in zip(entries, matrix.items()):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = ctypes.cast(entries, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(),
                                            ctypes.byref(params))
    if status != 0:
        raise SystemExit(f"llama_model_quantize returned {status} for {kind}, expected 0")


def types_in(path):
    """Count of tensors per type, for the record."""
    import gguf
    counts = {}
    for tensor in gguf.GGUFReader(str(path)).tensors:
        counts[tensor.tensor_type.name] = counts.get(tensor.tensor_type.name, 0) + 1
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--gguf", type=pathlib.Path, required=True, help="bfloat16 GGUF")
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, help="Hugging Face folder (iq1_s only)")
    parser.add_argument("--facts", type=pathlib.Path, help="facts.jsonl (iq1_s only)")
    args = parser.parse_args()
    if args.kind == "iq1_s" and not (args.model and args.facts):
        parser.error("iq1_s needs --model and --facts for its importance matrix")
    matrix = importance(args.model, args.facts) if args.kind == "iq1_s" else None
    quantise(args.gguf, args.out, args.kind, matrix)
    print(json.dumps({"file": args.out.name, "bytes": args.out.stat().st_size,
                      "types": types_in(args.out)}))


if __name__ == "__main__":
    main()
