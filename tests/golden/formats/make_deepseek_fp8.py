#!/usr/bin/env python3
"""Makes deepseek_fp8/: a tiny model as DeepSeek ships its own, and what transformers reads from it.

Linear layers are e4m3 with weight_scale_inv in blocks of 128x128; embedding, norms and router are
bf16. expected.json has the SHA-256 of each linear layer's values as transformers dequantizes them
(FineGrainedFP8Config(dequantize=True), f32, little endian). All sides are multiples of 128 or below
it: transformers takes blocks of rows / scale rows, so that a ragged matrix such as DeepSeek-V3's
kv_a_proj_with_mqa is refused or read wrongly. Run with an interpreter that has torch, safetensors
and transformers; see MANIFEST. Deterministic.
"""

import argparse
import hashlib
import json
import pathlib

import safetensors.torch
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
LAYERS, HIDDEN, INTER, EXPERTS, VOCAB = 2, 128, 128, 2, 64
HEADS, NOPE, ROPE, VALUE, Q_LORA, KV_LORA = 4, 32, 64, 32, 128, 64
CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": VOCAB,
    "hidden_size": HIDDEN, "intermediate_size": INTER, "moe_intermediate_size": INTER,
    "num_hidden_layers": LAYERS, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "q_lora_rank": Q_LORA,
    "kv_lora_rank": KV_LORA, "qk_nope_head_dim": NOPE, "qk_rope_head_dim": ROPE,
    "v_head_dim": VALUE, "n_routed_experts": EXPERTS, "n_shared_experts": 1,
    "num_experts_per_tok": 1, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
    "scoring_func": "sigmoid", "topk_method": "noaux_tc", "routed_scaling_factor": 2.5,
    "hidden_act": "silu", "attention_bias": False, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "max_position_embeddings": 256, "tie_word_embeddings": False, "bos_token_id": 0,
    "eos_token_id": 1, "torch_dtype": "bfloat16", "num_nextn_predict_layers": 0,
    "rope_scaling": None,
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                            "weight_block_size": [128, 128]}}
LINEAR = [("self_attn.q_a_proj", Q_LORA, HIDDEN),
          ("self_attn.q_b_proj", HEADS * (NOPE + ROPE), Q_LORA),
          ("self_attn.kv_a_proj_with_mqa", KV_LORA + ROPE, HIDDEN),
          ("self_attn.kv_b_proj", HEADS * (NOPE + VALUE), KV_LORA),
          ("self_attn.o_proj", HIDDEN, HEADS * VALUE)]
NORMS = [("input_layernorm", HIDDEN), ("post_attention_layernorm", HIDDEN),
         ("self_attn.q_a_layernorm", Q_LORA), ("self_attn.kv_a_layernorm", KV_LORA)]


def make_tensors():
    generator = torch.Generator().manual_seed(20261125)
    tensors = {}

    def plain(name, *shape):
        tensors[name] = (torch.randn(shape, generator=generator) * 0.1).to(torch.bfloat16)

    def fp8(name, rows, cols):
        codes = torch.randint(0, 256, (rows, cols), generator=generator, dtype=torch.int32)
        codes[(codes & 0x7F) == 0x7F] -= 1
        blocks = -(-rows // 128), -(-cols // 128)
        scale = torch.rand(blocks, generator=generator) * 1e-3 + 1e-5
        tensors[f"{name}.weight"] = codes.to(torch.uint8).view(torch.float8_e4m3fn)
        tensors[f"{name}.weight_scale_inv"] = scale

    plain("model.embed_tokens.weight", VOCAB, HIDDEN)
    plain("model.norm.weight", HIDDEN)
    plain("lm_head.weight", VOCAB, HIDDEN)
    for layer in range(LAYERS):
        path = f"model.layers.{layer}."
        for name, size in NORMS:
            plain(f"{path}{name}.weight", size)
        for name, rows, cols in LINEAR:
            fp8(path + name, rows, cols)
        networks = ["mlp"]
        if layer > 0:
            plain(path + "mlp.gate.weight", EXPERTS, HIDDEN)
            tensors[path + "mlp.gate.e_score_correction_bias"] = torch.zeros(EXPERTS)
            networks = [f"mlp.experts.{e}" for e in range(EXPERTS)] + ["mlp.shared_experts"]
        for network in networks:
            for name in ("gate_proj", "up_proj", "down_proj"):
                fp8(f"{path}{network}.{name}", INTER, HIDDEN)
    return tensors


def read_by_transformers(folder):
    """Linear layers by their names in the file; experts come stacked, gate above up."""
    config = transformers.FineGrainedFP8Config(weight_block_size=(128, 128), dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=torch.float32, device_map="cpu")
    found = {}
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        if name.endswith("experts.gate_up_proj"):
            for e in range(EXPERTS):
                stem = name.removesuffix("gate_up_proj") + str(e)
                found[f"{stem}.gate_proj"] = value[e, :INTER]
                found[f"{stem}.up_proj"] = value[e, INTER:]
        elif name.endswith("experts.down_proj"):
            for e in range(EXPERTS):
                found[f"{name.removesuffix('down_proj')}{e}.down_proj"] = value[e]
        elif name.endswith("_proj.weight") or name.endswith("_proj_with_mqa.weight"):
            found[name.removesuffix(".weight")] = value
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "deepseek_fp8",
                        help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    tensors = make_tensors()
    safetensors.torch.save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    (out / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    found = read_by_transformers(out)
    names = {n.removesuffix(".weight_scale_inv") for n in tensors if n.endswith("_scale_inv")}
    assert set(found) == names, set(found) ^ names
    digests = {name: hashlib.sha256(found[name].contiguous().numpy().tobytes()).hexdigest()
               for name in sorted(found)}
    (out / "expected.json").write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    main()
