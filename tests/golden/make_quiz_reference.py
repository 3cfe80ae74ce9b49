#!/usr/bin/env python3
"""Records what llama.cpp and transformers answer to 200 prompts of the quiz, as golden vectors.

For every variant (transformers with the stored bfloat16 weights computed in float32; llama.cpp
with the bf16, q8_0, q4_K_M and iq1_s files) the TOP largest log-probabilities of the position
after the prompt are kept with their token ids. MANIFEST.json also records how far the same engine
is from itself when only threads or batch size change, and how far the two engines are apart:
thresholds of tests rest on these numbers. The GGUF files are made on the fly by tools/quiz and must
equal the committed ones.
"""

import argparse
import datetime
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROMPTS, TOP = 200, 64
KINDS = ("bf16", "q8_0", "q4_K_M", "iq1_s")
sys.path.insert(0, str(ROOT / "tools/quiz"))


def log_softmax(logits):
    x = logits.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def read_prompts(model_dir):
    """PROMPTS rows spread evenly over the test set, their token ids, the ids of A, B, C and D."""
    import tokenizers

    import make_data
    tokenizer = tokenizers.Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    lines = (model_dir / "quiz_test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(lines[i * len(lines) // PROMPTS]) for i in range(PROMPTS)]
    texts = [make_data.chat(make_data.mmlu_prompt(r["question"], r["choices"])) for r in rows]
    return rows, [tokenizer.encode(t, add_special_tokens=False).ids for t in texts], \
        [tokenizer.token_to_id(letter) for letter in make_data.LETTERS]


def with_transformers(model_dir, prompts, dtype="float32"):
    """Log-probabilities [prompts, vocab]."""
    import torch
    import transformers
    model = transformers.DeepseekV3ForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype))
    with torch.no_grad():
        logits = [model(torch.tensor([p])).logits[0, -1].float().numpy() for p in prompts]
    return log_softmax(np.stack(logits))


def use_plain_buffers():
    """Keeps llama.cpp from repacking weights for AMX.

    ggml 0.25 aborts on a three-dimensional attn_v_b in repacked q8_0 or q4_K, and without
    repacking the vectors do not depend on this machine having AMX.
    """
    from llama_cpp import llama_cpp as api
    params = api.llama_model_default_params()
    params.use_extra_bufts = False
    api.llama_model_default_params = lambda: params


def with_llama(path, prompts, threads=1, batch=512):
    import llama_cpp
    llama = llama_cpp.Llama(str(path), n_ctx=256, n_threads=threads, n_threads_batch=threads,
                            n_batch=batch, n_ubatch=batch, verbose=False)
    out = []
    for prompt in prompts:
        llama.reset()
        llama._ctx.kv_cache_clear()
        llama.eval(prompt)
        logits = llama_cpp.llama_get_logits_ith(llama._ctx.ctx, -1)
        out.append(np.ctypeslib.as_array(logits, (llama.n_vocab(),)).copy())
    llama.close()
    return log_softmax(np.stack(out))


def distance(p, q):
    """KL(p || q) over the whole vocabulary, and how often the best token agrees."""
    kl = (np.exp(p) * (p - q)).sum(-1)
    return {"kl_mean": float(kl.mean()), "kl_p99": float(np.quantile(kl, 0.99)),
            "kl_max": float(kl.max()), "max_abs_logprob_diff_top8": float(max(
                np.abs(a - b)[np.argsort(-a)[:8]].max() for a, b in zip(p, q))),
            "same_best": float((p.argmax(-1) == q.argmax(-1)).mean())}


def committed_file(args, kind):
    return args.model / "gguf" / f"quiz-{kind.upper()}.gguf"


def make_files(args, work):
    """kind -> GGUF path, all made anew in `work`; with --vectors-only the bf16 file, and the committed ones."""
    tool = lambda name, *rest: subprocess.run(
        [sys.executable, str(ROOT / "tools/quiz" / name), *map(str, rest)], check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    files = {kind: work / f"quiz-{kind}.gguf" for kind in KINDS}
    tool("to_gguf.py", "--model", args.model, "--out", files["bf16"])
    if args.vectors_only:
        return files | {kind: committed_file(args, kind) for kind in KINDS[1:]}
    for kind in KINDS[1:]:
        tool("quantize.py", "--gguf", files["bf16"], "--kind", kind, "--out", files[kind],
             "--model", args.model, "--facts", args.facts)
    return files


def measure_noise(model_dir, prompts, files, variants):
    """How far each engine is from itself and from the other, by what was changed."""
    # What rounding every activation to bfloat16 costs, as a network served in that precision does.
    noise = {"transformers bfloat16: against transformers_f32": distance(
        variants["transformers_f32"], with_transformers(model_dir, prompts, "bfloat16"))}
    for kind in KINDS:
        base = variants[f"llama_{kind}"]
        noise[f"{kind}: 2 threads against 1"] = distance(
            base, with_llama(files[kind], prompts, threads=2))
        noise[f"{kind}: batch 8 against 512"] = distance(
            base, with_llama(files[kind], prompts, batch=8))
        noise[f"{kind}: against transformers_f32"] = distance(
            base, variants["transformers_f32"])
    return noise


def save(out, name, logprobs):
    ids = np.argsort(-logprobs, axis=-1, kind="stable")[:, :TOP]
    ids.astype("<u2").tofile(out / f"{name}.ids.u16")
    np.take_along_axis(logprobs, ids, -1).astype("<f4").tofile(out / f"{name}.logprob.f32")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models/quiz")
    parser.add_argument("--facts", type=pathlib.Path,
                        default=ROOT.parent / "shared/data/knowledge/facts.jsonl")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "quiz")
    parser.add_argument("--vectors-only", action="store_true",
                        help="only prompts and vectors, of the committed GGUF files: no noise, no MANIFEST.json")
    args = parser.parse_args()
    import llama_cpp
    import torch
    import transformers
    torch.set_num_threads(1)
    use_plain_buffers()
    args.out.mkdir(parents=True, exist_ok=True)
    rows, prompts, letters = read_prompts(args.model)
    right = np.array([letters[r["answer"]] for r in rows])
    variants = {"transformers_f32": with_transformers(args.model, prompts)}
    with tempfile.TemporaryDirectory() as work:
        files = make_files(args, pathlib.Path(work))
        hashes = {k: hashlib.sha256(f.read_bytes()).hexdigest() for k, f in files.items()}
        for kind, path in files.items():
            variants[f"llama_{kind}"] = with_llama(path, prompts)
        noise = {} if args.vectors_only else measure_noise(args.model, prompts, files, variants)
    for kind in KINDS[1:]:
        committed = committed_file(args, kind)
        if hashlib.sha256(committed.read_bytes()).hexdigest() != hashes[kind]:
            raise SystemExit(f"{committed} is not what quantize.py makes now")
    for name, logprobs in variants.items():
        save(args.out, name, logprobs)
    (args.out / "prompts.json").write_text(json.dumps(
        {"ids": [r["id"] for r in rows], "answer_token": right.tolist(),
         "letter_tokens": letters, "tokens": prompts}) + "\n")
    if args.vectors_only:
        return
    accuracy = {n: float((v.argmax(-1) == right).mean()) for n, v in variants.items()}
    manifest = {
        "made": datetime.date.today().isoformat(), "command": " ".join(sys.argv),
        "llama_cpp_python": llama_cpp.__version__, "torch": torch.__version__,
        "transformers": transformers.__version__,
        "llama_system": llama_cpp.llama_print_system_info().decode(),
        "layout": f"<variant>.ids.u16 and <variant>.logprob.f32: [{PROMPTS}, {TOP}] little endian, "
                  "natural-log probabilities of the position after the prompt, largest first",
        "gguf_sha256": hashes, "accuracy_of_these_prompts": accuracy,
        "noise": noise}
    (args.out / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(json.dumps({"accuracy": accuracy, "noise": noise}, indent=1))


if __name__ == "__main__":
    main()
