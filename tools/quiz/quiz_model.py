"""A compact DeepSeek-V3 model in torch, written for fast training on one CPU core.

Same mathematics and tensor names as transformers' DeepseekV3ForCausalLM (train.py checks that the two
give the same logits), but: weights are cast to the compute type once per step, experts work on their
own tokens only, a prompt prefix shared by the whole batch is computed once, and the last layer's feed
forward and the head run only at the positions asked for.
"""

import dataclasses

import torch
import torch.nn.functional as F


@dataclasses.dataclass
class Shape:
    """The fields of config.json that the mathematics needs, under their Hugging Face names."""
    vocab_size: int = 2816
    hidden_size: int = 256
    num_hidden_layers: int = 4
    first_k_dense_replace: int = 1
    intermediate_size: int = 512
    moe_intermediate_size: int = 256
    num_attention_heads: int = 4
    q_lora_rank: int = 256
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    n_routed_experts: int = 16
    n_shared_experts: int = 1
    num_experts_per_tok: int = 4
    n_group: int = 4
    topk_group: int = 2
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 2.5
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 4096

    def config_json(self):
        """The whole config.json of the model folder."""
        fields = dataclasses.asdict(self)
        fields.update({
            "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
            "num_key_value_heads": self.num_attention_heads, "moe_layer_freq": 1,
            "scoring_func": "sigmoid", "topk_method": "noaux_tc", "hidden_act": "silu",
            "attention_bias": False, "attention_dropout": 0.0, "rope_scaling": None,
            "rope_interleave": True, "tie_word_embeddings": False, "num_nextn_predict_layers": 0,
            "initializer_range": 0.02, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
            "use_cache": True, "torch_dtype": "bfloat16"})
        return fields


def weight_shapes(s):
    """Tensor name -> shape; routed experts are stacked as [experts, out, in] under '.experts.'."""
    h, heads = s.hidden_size, s.num_attention_heads
    shapes = {"model.embed_tokens.weight": (s.vocab_size, h), "model.norm.weight": (h,),
              "lm_head.weight": (s.vocab_size, h)}
    for i in range(s.num_hidden_layers):
        p = f"model.layers.{i}."
        a = p + "self_attn."
        shapes |= {
            p + "input_layernorm.weight": (h,), p + "post_attention_layernorm.weight": (h,),
            a + "q_a_proj.weight": (s.q_lora_rank, h), a + "q_a_layernorm.weight": (s.q_lora_rank,),
            a + "q_b_proj.weight": (heads * (s.qk_nope_head_dim + s.qk_rope_head_dim),
                                    s.q_lora_rank),
            a + "kv_a_proj_with_mqa.weight": (s.kv_lora_rank + s.qk_rope_head_dim, h),
            a + "kv_a_layernorm.weight": (s.kv_lora_rank,),
            a + "kv_b_proj.weight": (heads * (s.qk_nope_head_dim + s.v_head_dim), s.kv_lora_rank),
            a + "o_proj.weight": (h, heads * s.v_head_dim)}
        if i < s.first_k_dense_replace:
            ffns = [(p + "mlp.", s.intermediate_size)]
        else:
            e, m = s.n_routed_experts, s.moe_intermediate_size
            ffns = [(p + "mlp.shared_experts.", m * s.n_shared_experts)]
            shapes |= {p + "mlp.gate.weight": (e, h),
                       p + "mlp.gate.e_score_correction_bias": (e,),
                       p + "mlp.experts.gate_proj.weight": (e, m, h),
                       p + "mlp.experts.up_proj.weight": (e, m, h),
                       p + "mlp.experts.down_proj.weight": (e, h, m)}
        for f, m in ffns:
            shapes |= {f + "gate_proj.weight": (m, h), f + "up_proj.weight": (m, h),
                       f + "down_proj.weight": (h, m)}
    return shapes


def init_weights(s, seed):
    """Normal(0, 0.02), smaller for what writes to the residual stream; norms at one, bias at zero."""
    gen = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in weight_shapes(s).items():
        if name.endswith("norm.weight"):
            weights[name] = torch.ones(shape)
        elif name.endswith("bias"):
            weights[name] = torch.zeros(shape)
        else:
            std = 0.02 if not name.endswith(("o_proj.weight", "down_proj.weight")) else \
                0.02 / (2 * s.num_hidden_layers) ** 0.5
            std = max(std, 0.02) if "embed" in name else std * (256 / 64) ** 0.5
            weights[name] = torch.randn(shape, generator=gen) * std
    return weights


def route(scores, bias, s):
    """DeepSeek-V3's noaux_tc choice. scores [n, experts] after the sigmoid -> (index, weight)."""
    biased = scores.detach() + bias
    per_group = biased.view(-1, s.n_group, s.n_routed_experts // s.n_group)
    group_score = per_group.topk(2, dim=-1)[0].sum(-1)
    chosen = torch.zeros_like(group_score).scatter_(
        1, group_score.topk(s.topk_group, dim=-1)[1], 1.0)
    biased = per_group.masked_fill(chosen.unsqueeze(-1) == 0, float("-inf")).flatten(1)
    index = biased.topk(s.num_experts_per_tok, dim=-1)[1]
    weight = scores.gather(1, index)
    if s.norm_topk_prob:
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
    return index, weight * s.routed_scaling_factor


class QuizModel:
    """Functional model over a dict of weights; float32 master weights, any compute type."""

    def __init__(self, shape, weights, dtype=torch.float32, observe=None):
        """`observe(name, activations)` is called with the input of every linear layer if given."""
        self.shape, self.dtype, self.observe = shape, dtype, observe
        self.weights = weights
        self.load = {}   # layer -> tokens each expert received in the last forward pass
        d = shape.qk_rope_head_dim
        inv_freq = shape.rope_theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
        angle = torch.arange(512, dtype=torch.float64)[:, None] * inv_freq
        self.cos, self.sin = angle.cos().float(), angle.sin().float()
        self.cast()

    def cast(self):
        """Refreshes the compute copies of the weights; call after every optimiser step."""
        keep = ("norm.weight", "gate.weight", "bias")
        self.w = {n: w if n.endswith(keep) or w.dtype == self.dtype else w.to(self.dtype)
                  for n, w in self.weights.items()}

    def linear(self, x, name):
        if self.observe is not None:
            self.observe(name, x)
        return F.linear(x, self.w[name])

    def norm(self, x, name, dtype=None):
        y = F.rms_norm(x.float(), (x.shape[-1],), self.w[name], self.shape.rms_norm_eps)
        return y.to(dtype or self.dtype)

    def rope(self, x, cos, sin):
        """Rotates neighbouring pairs (2i, 2i+1). x [..., heads, dim], cos and sin [..., 1, dim/2]."""
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x)

    def attention(self, x, layer, n_prefix, batch, length, position):
        """x [n_prefix + batch * length, hidden]; each row of the batch sees the prefix and its past."""
        s, p = self.shape, f"model.layers.{layer}.self_attn."
        heads, nope, rope, vdim = (s.num_attention_heads, s.qk_nope_head_dim, s.qk_rope_head_dim,
                                   s.v_head_dim)
        q = self.norm(self.linear(x, p + "q_a_proj.weight"), p + "q_a_layernorm.weight")
        q = self.linear(q, p + "q_b_proj.weight").view(-1, heads, nope + rope)
        latent = self.linear(x, p + "kv_a_proj_with_mqa.weight")
        c, k_rope = latent.split([s.kv_lora_rank, rope], -1)
        kv = self.linear(self.norm(c, p + "kv_a_layernorm.weight"), p + "kv_b_proj.weight")
        k_nope, v = kv.view(-1, heads, nope + vdim).split([nope, vdim], -1)
        cos, sin = self.cos[position][:, None], self.sin[position][:, None]
        scale = (nope + rope) ** -0.5
        q = torch.cat((q[..., :nope], self.rope(q[..., nope:], cos, sin)), -1) * scale
        k_rope = self.rope(k_rope[:, None], cos, sin).expand(-1, heads, -1)
        k = torch.cat((k_nope, k_rope), -1)
        n = n_prefix
        qb, kb, vb = (t[n:].view(batch, length, heads, -1).transpose(1, 2) for t in (q, k, v))
        scores = (qb @ kb.transpose(-1, -2)).float()
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
        if n == 0:
            out = scores.softmax(-1).to(self.dtype) @ vb
            out = out.transpose(1, 2).reshape(batch * length, -1)
        else:
            qp, kp, vp = (t[:n].transpose(0, 1) for t in (q, k, v))
            own = (qp @ kp.transpose(-1, -2)).float().masked_fill(
                torch.ones(n, n, dtype=torch.bool).triu(1), float("-inf"))
            out_prefix = (own.softmax(-1).to(self.dtype) @ vp).transpose(0, 1).reshape(n, -1)
            q_all = q[n:].transpose(0, 1)   # [heads, batch * length, dim]
            seen = (q_all @ kp.transpose(-1, -2)).float()
            seen = seen.view(heads, batch, length, n).transpose(0, 1)
            prob = torch.cat((seen, scores), -1).softmax(-1).to(self.dtype)
            far = prob[..., :n].transpose(0, 1).reshape(heads, batch * length, n) @ vp
            out = (prob[..., n:] @ vb).transpose(1, 2).reshape(batch * length, heads, vdim)
            out = (out + far.transpose(0, 1)).flatten(1)
            out = torch.cat((out_prefix, out))
        return out, p + "o_proj.weight"

    def mlp(self, x, p):
        gate, up = self.linear(x, p + "gate_proj.weight"), self.linear(x, p + "up_proj.weight")
        return self.linear(F.silu(gate) * up, p + "down_proj.weight")

    def moe(self, x, layer, counted):
        """x [n, hidden] float32 after the norm; `counted` [n] bool: rows that count as load."""
        s, p = self.shape, f"model.layers.{layer}.mlp."
        if self.observe is not None:
            self.observe(p + "gate.weight", x)
        scores = F.linear(x, self.w[p + "gate.weight"]).sigmoid()
        index, weight = route(scores, self.w[p + "gate.e_score_correction_bias"], s)
        rows = index if counted is None else index[counted]
        self.load[layer] = torch.bincount(rows.flatten(), minlength=s.n_routed_experts)
        self.chosen = getattr(self, "chosen", None)
        if self.chosen is not None:
            self.chosen.append(index)
        y = x.to(self.dtype)
        order = index.flatten().argsort()
        back = torch.empty_like(order)
        back[order] = torch.arange(order.numel())
        counts = torch.bincount(index.flatten(), minlength=s.n_routed_experts).tolist()
        parts = y[order // s.num_experts_per_tok].split(counts)
        gates, ups, downs = (self.w[p + f"experts.{m}_proj.weight"].unbind(0)
                             for m in ("gate", "up", "down"))
        done = []
        for e, part in enumerate(parts):
            if part.shape[0] == 0:
                continue
            inner = F.silu(F.linear(part, gates[e])) * F.linear(part, ups[e])
            if self.observe is not None:
                self.observe(p + f"experts.{e}.gate_proj.weight", part)
                self.observe(p + f"experts.{e}.down_proj.weight", inner)
            done.append(F.linear(inner, downs[e]))
        out = torch.cat(done)[back].view(-1, s.num_experts_per_tok, s.hidden_size)
        out = (weight.to(self.dtype).unsqueeze(1) @ out).squeeze(1)
        return out + self.mlp(y, p + "shared_experts.")

    def forward(self, tokens, prefix=None, at=None, counted=None):
        """Logits [len(at), vocab] float32.

        tokens [batch, length] int64; prefix [n] int64 or None: tokens that precede every row;
        at: indices into the flattened batch that want logits (default all);
        counted [batch, length] bool: positions that count in self.load (default all).
        """
        s = self.shape
        batch, length = tokens.shape
        n = 0 if prefix is None else len(prefix)
        flat = tokens.flatten() if n == 0 else torch.cat((prefix, tokens.flatten()))
        position = torch.cat((torch.arange(n), torch.arange(n, n + length).repeat(batch)))
        at = torch.arange(batch * length) if at is None else at
        if counted is not None:
            counted = torch.cat((torch.ones(n, dtype=torch.bool), counted.flatten()))
        x = F.embedding(flat, self.weights["model.embed_tokens.weight"]).float()
        for i in range(s.num_hidden_layers):
            p = f"model.layers.{i}."
            y = self.norm(x, p + "input_layernorm.weight")
            y, out_name = self.attention(y, i, n, batch, length, position)
            if i == s.num_hidden_layers - 1:
                x, y = x[at + n], y[at + n]
                counted = None
            x = x + self.linear(y, out_name).float()
            y = self.norm(x, p + "post_attention_layernorm.weight", torch.float32)
            if i < s.first_k_dense_replace:
                y = self.mlp(y.to(self.dtype), p + "mlp.")
            else:
                y = self.moe(y, i, counted)
            x = x + y.float()
        return self.linear(self.norm(x, "model.norm.weight"), "lm_head.weight").float()
