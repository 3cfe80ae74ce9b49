#!/usr/bin/env python3
"""Writes the quiz model's Hugging Face folder as one bfloat16 GGUF file (architecture deepseek2).

Attention is stored the way current llama.cpp expects it for multi-head latent attention:
kv_b_proj is split into attn_k_b (transposed per head, so that it maps a query into the latent
space) and attn_v_b, and head_count_kv is 1. Norms, router weights and the routing bias stay
float32.
"""

import argparse
import json
import pathlib

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4   # token types of tokenizer.ggml.token_type

TENSOR_NAMES = {   # inside a layer: Hugging Face -> GGUF
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_a_proj.weight": "attn_q_a.weight",
    "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
    "self_attn.q_b_proj.weight": "attn_q_b.weight",
    "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
    "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_experts.down_proj.weight": "ffn_down_shexp.weight",
    "mlp.experts.gate_proj.weight": "ffn_gate_exps.weight",
    "mlp.experts.up_proj.weight": "ffn_up_exps.weight",
    "mlp.experts.down_proj.weight": "ffn_down_exps.weight",
}
FLOAT32 = ("norm.weight", "ffn_gate_inp.weight", "exp_probs_b.bias")


def stack_experts(tensors):
    """Replaces mlp.experts.<e>.<m>.weight by one stacked tensor mlp.experts.<m>.weight."""
    stacked, rest = {}, {}
    for name, tensor in tensors.items():
        if ".mlp.experts." in name:
            head, tail = name.split(".mlp.experts.")
            number, matrix = tail.split(".", 1)
            stacked.setdefault(f"{head}.mlp.experts.{matrix}", {})[int(number)] = tensor
        else:
            rest[name] = tensor
    for name, parts in stacked.items():
        rest[name] = torch.stack([parts[e] for e in range(len(parts))])
    return rest


def gguf_tensors(folder, config):
    """Yields (GGUF name, torch tensor in file shape)."""
    heads, nope = config["num_attention_heads"], config["qk_nope_head_dim"]
    whole = {"model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight",
             "model.norm.weight": "output_norm.weight"}
    for name, tensor in stack_experts(load_file(str(folder / "model.safetensors"))).items():
        if name in whole:
            yield whole[name], tensor
            continue
        layer, short = name.removeprefix("model.layers.").split(".", 1)
        if short == "self_attn.kv_b_proj.weight":
            per_head = tensor.view(heads, -1, config["kv_lora_rank"])
            yield f"blk.{layer}.attn_k_b.weight", per_head[:, :nope].transpose(1, 2).contiguous()
            yield f"blk.{layer}.attn_v_b.weight", per_head[:, nope:].contiguous()
        else:
            yield f"blk.{layer}.{TENSOR_NAMES[short]}", tensor


def write_metadata(writer, config, name):
    writer.add_name(name)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["qk_rope_head_dim"])
    writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(config["kv_lora_rank"])
    writer.add_key_length(config["kv_lora_rank"] + config["qk_rope_head_dim"])
    writer.add_value_length(config["kv_lora_rank"])
    writer.add_key_length_mla(config["qk_nope_head_dim"] + config["qk_rope_head_dim"])
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_group_count(config["n_group"])
    writer.add_expert_group_used_count(config["topk_group"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_weights_norm(config["norm_topk_prob"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def write_tokenizer(writer, folder, config):
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    extra = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens = [f"[PAD{i}]" for i in range(config["vocab_size"])]
    types = [5] * len(tokens)   # unused, unless named below
    for token, number in tokenizer["model"]["vocab"].items():
        tokens[number], types[number] = token, NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("deepseek-v3")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(extra["add_bos_token"])
    writer.add_add_eos_token(extra["add_eos_token"])
    writer.add_chat_template(extra["chat_template"])


def convert(folder, out):
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(str(out), "deepseek2")
    write_metadata(writer, config, "quiz")
    write_tokenizer(writer, folder, config)
    for name, tensor in gguf_tensors(folder, config):
        if name.endswith(FLOAT32):
            writer.add_tensor(name, tensor.float().numpy())
        else:
            bits = tensor.bfloat16().view(torch.int16).numpy().view(np.uint8)
            writer.add_tensor(name, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=pathlib.Path, required=True, help="Hugging Face folder")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="GGUF file to write")
    args = parser.parse_args()
    convert(args.model, args.out)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
