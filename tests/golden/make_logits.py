#!/usr/bin/env python3
"""Makes the whole-model golden vectors: tiny random models with the structure of real ones.

For each model: config.json and model.safetensors (float32) in Hugging Face form, the float64
logits of a prompt and of a greedy continuation, and the experts every layer chose for every
token. The float64 numbers come from the reference below, written from DeepSeek's published
formulas in the slow and obvious way (no latent-space shortcuts). transformers computes the same
model in float32 as a second opinion; the largest difference is recorded in MANIFEST.json.

Weights depend on nothing but the seed. A seed is taken only if every routing decision of every
token has a margin of MARGIN_MIN, so that float32 engines cannot choose other experts by rounding.
"""

import argparse
import datetime
import hashlib
import json
import math
import pathlib
import sys

import numpy as np

MARGIN_MIN = 2e-3       # smallest gap between a chosen and a refused score
PROMPT, EXTRA = 40, 8   # tokens of the prompt, greedy tokens after it
VOCAB = 128

YARN_V3 = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
           "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
COMMON = {
    "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 64,
    "vocab_size": VOCAB, "num_hidden_layers": 3, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "intermediate_size": 64, "moe_intermediate_size": 32, "num_attention_heads": 2,
    "num_key_value_heads": 2, "kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16,
    "v_head_dim": 32, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "bos_token_id": 0,
    "eos_token_id": 1, "torch_dtype": "float32", "use_cache": True}
SIGMOID = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": True}
MODELS = {
    "v2_lite": COMMON | {
        "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
        "q_lora_rank": None, "n_routed_experts": 6, "n_shared_experts": 2,
        "num_experts_per_tok": 3, "n_group": 1, "topk_group": 1, "scoring_func": "softmax",
        "topk_method": "greedy", "norm_topk_prob": False, "routed_scaling_factor": 1.0,
        "rope_theta": 10000.0, "max_position_embeddings": 163840,
        "rope_scaling": YARN_V3 | {"mscale": 0.707, "mscale_all_dim": 0.707}},
    "v2": COMMON | {
        "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
        "q_lora_rank": 32, "n_routed_experts": 12, "n_shared_experts": 2,
        "moe_intermediate_size": 16, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2,
        "scoring_func": "softmax", "topk_method": "group_limited_greedy", "norm_topk_prob": False,
        "routed_scaling_factor": 16.0, "rope_theta": 10000.0, "max_position_embeddings": 163840,
        "rope_scaling": YARN_V3 | {"mscale": 0.707, "mscale_all_dim": 0.707}},
    "v3": COMMON | SIGMOID | {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
        "q_lora_rank": 32, "n_routed_experts": 12, "n_shared_experts": 1,
        "moe_intermediate_size": 16, "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2,
        "routed_scaling_factor": 2.5, "rope_theta": 10000.0, "max_position_embeddings": 163840,
        "rope_scaling": YARN_V3, "num_nextn_predict_layers": 0},
    "kimi_k2": COMMON | SIGMOID | {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "kimi_k2",
        "q_lora_rank": 32, "n_routed_experts": 7, "n_shared_experts": 1,
        "num_experts_per_tok": 3, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.827,
        "rope_theta": 50000.0, "max_position_embeddings": 131072, "num_nextn_predict_layers": 0,
        "rope_scaling": YARN_V3 | {"factor": 32.0, "beta_fast": 1.0, "beta_slow": 1.0}},
    "moonlight": COMMON | SIGMOID | {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
        "q_lora_rank": None, "n_routed_experts": 6, "n_shared_experts": 2,
        "num_experts_per_tok": 3, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.446,
        "rope_theta": 50000.0, "max_position_embeddings": 8192, "rope_scaling": None,
        "num_nextn_predict_layers": 0},
}


def tensor_shapes(c):
    """Hugging Face tensor name -> shape, one entry per expert."""
    h, heads = c["hidden_size"], c["num_attention_heads"]
    qk = c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
    shapes = {"model.embed_tokens.weight": (VOCAB, h), "model.norm.weight": (h,),
              "lm_head.weight": (VOCAB, h)}
    for i in range(c["num_hidden_layers"]):
        p, a = f"model.layers.{i}.", f"model.layers.{i}.self_attn."
        shapes[p + "input_layernorm.weight"] = shapes[p + "post_attention_layernorm.weight"] = (h,)
        if c["q_lora_rank"]:
            shapes[a + "q_a_proj.weight"] = (c["q_lora_rank"], h)
            shapes[a + "q_a_layernorm.weight"] = (c["q_lora_rank"],)
            shapes[a + "q_b_proj.weight"] = (heads * qk, c["q_lora_rank"])
        else:
            shapes[a + "q_proj.weight"] = (heads * qk, h)
        shapes[a + "kv_a_proj_with_mqa.weight"] = (c["kv_lora_rank"] + c["qk_rope_head_dim"], h)
        shapes[a + "kv_a_layernorm.weight"] = (c["kv_lora_rank"],)
        shapes[a + "kv_b_proj.weight"] = (heads * (c["qk_nope_head_dim"] + c["v_head_dim"]),
                                          c["kv_lora_rank"])
        shapes[a + "o_proj.weight"] = (h, heads * c["v_head_dim"])
        m = c["moe_intermediate_size"]
        ffns = [(p + "mlp.", c["intermediate_size"])]
        if i >= c["first_k_dense_replace"]:
            ffns = [(p + f"mlp.experts.{e}.", m) for e in range(c["n_routed_experts"])]
            ffns.append((p + "mlp.shared_experts.", m * c["n_shared_experts"]))
            shapes[p + "mlp.gate.weight"] = (c["n_routed_experts"], h)
            if c["topk_method"] == "noaux_tc":
                shapes[p + "mlp.gate.e_score_correction_bias"] = (c["n_routed_experts"],)
        for f, width in ffns:
            shapes[f + "gate_proj.weight"] = shapes[f + "up_proj.weight"] = (width, h)
            shapes[f + "down_proj.weight"] = (h, width)
    return shapes


def make_weights(c, seed):
    """float32 tensors; scaled so that every part of the model visibly moves the logits."""
    rng = np.random.Generator(np.random.PCG64(seed))
    weights = {}
    for name, shape in sorted(tensor_shapes(c).items()):
        if name.endswith("norm.weight"):
            value = 1.0 + 0.2 * rng.standard_normal(shape)
        elif name.endswith("bias"):
            value = 0.2 * rng.standard_normal(shape)
        elif "embed" in name:
            value = rng.standard_normal(shape)
        else:
            value = rng.standard_normal(shape) * shape[-1] ** -0.5 * 1.3
            if "mlp.experts." in name and name.endswith("down_proj.weight"):
                value /= c["routed_scaling_factor"]   # keeps routed and shared parts comparable
        weights[name] = value.astype(np.float32)
    return weights


def mscale(factor, m):
    return 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1.0


def rope_table(c, length):
    """(cos, sin) [length, rope/2] with YaRN's frequencies and magnitude."""
    dim, base, y = c["qk_rope_head_dim"], c["rope_theta"], c["rope_scaling"]
    plain = base ** (-np.arange(0, dim, 2) / dim)
    freq, magnitude = plain, 1.0
    if y:
        def turn_dim(turns):   # dimension that turns `turns` times over the original context
            return dim * math.log(y["original_max_position_embeddings"] / (turns * 2 * math.pi)) \
                / (2 * math.log(base))
        low = max(math.floor(turn_dim(y["beta_fast"])), 0)
        high = min(math.ceil(turn_dim(y["beta_slow"])), dim - 1)
        high = high + 0.001 if low == high else high
        ramp = np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
        freq = plain / y["factor"] * ramp + plain * (1 - ramp)
        magnitude = mscale(y["factor"], y["mscale"]) / mscale(y["factor"], y["mscale_all_dim"])
    angle = np.arange(length)[:, None] * freq
    return np.cos(angle) * magnitude, np.sin(angle) * magnitude


def rotate(x, cos, sin):
    """Interleaved pairs. x [length, heads, dim]."""
    even, odd, out = x[..., 0::2], x[..., 1::2], np.empty_like(x)
    out[..., 0::2] = even * cos[:, None] - odd * sin[:, None]
    out[..., 1::2] = even * sin[:, None] + odd * cos[:, None]
    return out


def norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def ffn(x, w, prefix):
    gate = x @ w[prefix + "gate_proj.weight"].T
    return (gate / (1 + np.exp(-gate)) * (x @ w[prefix + "up_proj.weight"].T)) @ \
        w[prefix + "down_proj.weight"].T


def attention(x, w, p, c, cos, sin):
    n, heads, nope = len(x), c["num_attention_heads"], c["qk_nope_head_dim"]
    rank, eps = c["kv_lora_rank"], c["rms_norm_eps"]
    if c["q_lora_rank"]:
        q = norm(x @ w[p + "q_a_proj.weight"].T, w[p + "q_a_layernorm.weight"], eps) @ \
            w[p + "q_b_proj.weight"].T
    else:
        q = x @ w[p + "q_proj.weight"].T
    q = q.reshape(n, heads, -1)
    latent = x @ w[p + "kv_a_proj_with_mqa.weight"].T
    kv = norm(latent[:, :rank], w[p + "kv_a_layernorm.weight"], eps) @ w[p + "kv_b_proj.weight"].T
    kv = kv.reshape(n, heads, -1)
    k_rope = np.repeat(rotate(latent[:, None, rank:], cos, sin), heads, 1)
    k = np.concatenate((kv[..., :nope], k_rope), -1)
    q = np.concatenate((q[..., :nope], rotate(q[..., nope:], cos, sin)), -1)
    scale, y = q.shape[-1] ** -0.5, c["rope_scaling"]
    if y:
        scale *= mscale(y["factor"], y["mscale_all_dim"]) ** 2
    scores = np.einsum("qhd,khd->hqk", q, k) * scale
    scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
    out = np.einsum("hqk,khd->qhd", softmax(scores), kv[..., nope:])
    return out.reshape(n, -1) @ w[p + "o_proj.weight"].T


def choose(score, k):
    """Indices of the k largest, ascending, and the gap to the largest one refused."""
    order = np.argsort(-score, kind="stable")
    gap = np.inf if k == len(score) else score[order[k - 1]] - score[order[k]]
    return np.sort(order[:k]), gap


def route(score, bias, c):
    """Experts of one token, their weights, and the smallest margin of the decisions."""
    groups, method = c["n_group"], c["topk_method"]
    choice = score + bias if method == "noaux_tc" else score
    margin, allowed = np.inf, np.ones(len(score), bool)
    if method != "greedy" and groups > 1:
        table = np.sort(choice.reshape(groups, -1), -1)
        value = table[:, -2:].sum(-1) if method == "noaux_tc" else table[:, -1]
        kept, margin = choose(value, c["topk_group"])
        allowed = np.isin(np.arange(len(score)) // (len(score) // groups), kept)
    open_ids = np.flatnonzero(allowed)
    picked, gap = choose(choice[allowed], c["num_experts_per_tok"])
    experts = open_ids[picked]
    weight = score[experts]
    if c["norm_topk_prob"]:
        weight = weight / (weight.sum() + 1e-20)
    return experts, weight * c["routed_scaling_factor"], min(margin, gap)


def moe(x, w, p, c):
    logits = x @ w[p + "gate.weight"].T
    scores = softmax(logits) if c["scoring_func"] == "softmax" else 1 / (1 + np.exp(-logits))
    bias = w.get(p + "gate.e_score_correction_bias", 0.0)
    out, chosen, margin = ffn(x, w, p + "shared_experts."), [], np.inf
    for t, score in enumerate(scores):
        experts, weight, gap = route(score, bias, c)
        margin = min(margin, gap)
        chosen.append(experts.tolist())
        for e, factor in zip(experts, weight):
            out[t] += factor * ffn(x[t], w, p + f"experts.{e}.")
    return out, chosen, margin


def forward(tokens, weights, c):
    """(logits [tokens, vocab] float64, experts per MoE layer and token, smallest margin)."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    cos, sin = rope_table(c, len(tokens))
    x, chosen, margin = w["model.embed_tokens.weight"][tokens], {}, np.inf
    for i in range(c["num_hidden_layers"]):
        p, eps = f"model.layers.{i}.", c["rms_norm_eps"]
        x = x + attention(norm(x, w[p + "input_layernorm.weight"], eps), w, p + "self_attn.", c,
                          cos, sin)
        y = norm(x, w[p + "post_attention_layernorm.weight"], eps)
        if i < c["first_k_dense_replace"]:
            x = x + ffn(y, w, p + "mlp.")
            continue
        y, chosen[i], gap = moe(y, w, p + "mlp.", c)
        x, margin = x + y, min(margin, gap)
    return norm(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T, chosen, margin


def continue_greedily(prompt, weights, c):
    tokens = list(prompt)
    for _ in range(EXTRA):
        tokens.append(int(forward(tokens, weights, c)[0][-1].argmax()))
    return tokens


def transformers_logits(folder, config, tokens):
    """float32 logits of transformers. It knows Kimi-K2 only as the deepseek_v3 it is."""
    import torch
    import transformers
    name = "DeepseekV2" if config["model_type"] == "deepseek_v2" else "DeepseekV3"
    fields = {k: v for k, v in config.items() if k not in ("architectures", "model_type")}
    config = getattr(transformers, name + "Config")(**fields)
    model = getattr(transformers, name + "ForCausalLM").from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()


def find_seed(config, first):
    for seed in range(first, first + 2000):
        weights = make_weights(config, seed)
        rng = np.random.Generator(np.random.PCG64(seed + 1_000_000))
        prompt = [0] + rng.integers(3, VOCAB, PROMPT - 1).tolist()
        if forward(prompt, weights, config)[2] < MARGIN_MIN:
            continue
        tokens = continue_greedily(prompt, weights, config)
        logits, chosen, margin = forward(tokens, weights, config)
        if margin >= MARGIN_MIN and len(set(tokens[PROMPT:])) > EXTRA // 2:
            return seed, weights, tokens, logits, chosen, margin
    raise SystemExit("no seed with wide enough routing margins among 2000")


def write_model(out, name, config, first_seed):
    from safetensors.numpy import save_file
    seed, weights, tokens, logits, chosen, margin = find_seed(config, first_seed)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    logits.astype("<f8").tofile(folder / "logits.f64")
    expected = {"tokens": tokens, "prompt_length": PROMPT, "greedy": tokens[PROMPT:],
                "logits_file": "logits.f64", "logits_shape": list(logits.shape),
                "experts": {str(layer): rows for layer, rows in chosen.items()}}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    other = transformers_logits(folder, config, tokens)
    top2 = np.sort(logits, -1)[:, -2:]
    report = {"seed": seed, "routing_margin_min": float(margin),
              "logits_max_abs": float(np.abs(logits).max()),
              "greedy_margin_min": float((top2[:, 1] - top2[:, 0])[PROMPT - 1:-1].min()),
              "transformers_float32_max_diff": float(np.abs(other - logits).max()),
              "files": {f.name: {"bytes": f.stat().st_size,
                                 "sha256": hashlib.sha256(f.read_bytes()).hexdigest()}
                        for f in sorted(folder.iterdir())}}
    print(name, {k: v for k, v in report.items() if k != "files"})
    if report["transformers_float32_max_diff"] > 1e-4 * max(1.0, report["logits_max_abs"]):
        raise SystemExit(f"{name}: the reference and transformers disagree")
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=pathlib.Path,
                        default=pathlib.Path(__file__).parent / "logits")
    parser.add_argument("--seed", type=int, default=1, help="first seed to try")
    args = parser.parse_args()
    import torch
    import transformers
    torch.set_num_threads(1)
    models = {name: write_model(args.out, name, config, args.seed)
              for name, config in MODELS.items()}
    manifest = {
        "made": datetime.date.today().isoformat(), "command": " ".join(sys.argv),
        "python": sys.version.split()[0], "numpy": np.__version__, "torch": torch.__version__,
        "transformers": transformers.__version__,
        "layout": "logits.f64: little-endian float64 [tokens, vocab], row t predicts token t + 1; "
                  "expected.json: experts per layer and token, ascending",
        "transformers_notes": [
            "deepseek_v2 and deepseek_v3 both rotate neighbouring pairs and multiply the attention "
            "scale by mscale(factor, mscale_all_dim) squared, as DeepSeek's modeling code does.",
            "deepseek_v2 ignores norm_topk_prob (false in every released V2 model, and here).",
            "Norms, rotary embedding and router run in float32 there whatever the model's type, "
            "so it is used as a float32 check only, not for the float64 values."],
        "models": models}
    (args.out / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
