"""A compact DeepSeek-V3 model in torch, written for fast training on one CPU core.

Same mathematics and tensor names as transformers' DeepseekV3ForCausalLM (train.py checks that the
two give the same logits), but: weights are cast to the compute type once per step, experts work
on their own tokens only with a hand-written gradient, a prompt prefix shared by the whole batch
is computed once, and the last layer's feed forward and the head run only at the positions asked
for.
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
    """Normal weights, norms at one, bias at zero.

    Embeddings are large, so that what tells tokens apart outweighs what attention averages over the
    whole prompt; otherwise every token looks alike to the routers.
    """
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
            std = 0.5 if "embed" in name else std * 2
            std = s.hidden_size ** -0.5 if name.endswith("gate.weight") else std
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


def rms_norm(x, weight, eps):
    """x [..., dim] of any type -> float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rotate(x, cos, sin):
    """Rotates neighbouring pairs (2i, 2i+1). x [rows, heads, dim], cos and sin [rows, 1, dim/2]."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


def swiglu(x, w, see=None):
    gate, up = F.linear(x, w["gate_proj"]), F.linear(x, w["up_proj"])
    inner = (F.silu(gate.float()) * up).to(x.dtype)
    if see:
        see("gate_proj", x)
        see("up_proj", x)
        see("down_proj", inner)
    return F.linear(inner, w["down_proj"])


def guide_loss(prob, guides):
    """How far attention is from where it should look: mean of -log(mass on the wanted positions).

    prob [batch, heads, length, length]; guides: list of (head, wanted), wanted
    [batch, length, length] bool; rows without any wanted position do not count.
    """
    total = prob.new_zeros(())
    for head, wanted in guides:
        mass = (prob[:, head] * wanted).sum(-1)[wanted.any(-1)]
        total = total - (mass + 1e-3).log().mean()
    return total


def attention(x, w, cos, sin, n, batch, length, s, guides=(), see=None):
    """x [n + batch * length, hidden] f32 -> (what o_proj takes [same, heads * v_dim], guide loss).

    The first n rows are the shared prefix; each row of the batch sees the prefix and its own past.
    """
    heads, nope, rope, vdim = (s.num_attention_heads, s.qk_nope_head_dim, s.qk_rope_head_dim,
                               s.v_head_dim)
    kind = w["q_a_proj"].dtype
    y = rms_norm(x, w["input_layernorm"], s.rms_norm_eps).to(kind)
    q_latent = rms_norm(F.linear(y, w["q_a_proj"]), w["q_a_layernorm"], s.rms_norm_eps).to(kind)
    q = F.linear(q_latent, w["q_b_proj"]).view(-1, heads, nope + rope)
    c, k_rope = F.linear(y, w["kv_a_proj_with_mqa"]).split([s.kv_lora_rank, rope], -1)
    c = rms_norm(c, w["kv_a_layernorm"], s.rms_norm_eps).to(kind)
    if see:
        see("q_a_proj", y)
        see("q_b_proj", q_latent)
        see("kv_a_proj_with_mqa", y)
        see("kv_b_proj", c)
    k_nope, v = F.linear(c, w["kv_b_proj"]).view(-1, heads, nope + vdim).split([nope, vdim], -1)
    scale = (nope + rope) ** -0.5
    q = torch.cat((q[..., :nope], rotate(q[..., nope:], cos, sin)), -1) * scale
    k_rope = rotate(k_rope[:, None], cos, sin).expand(-1, heads, -1)
    k = torch.cat((k_nope, k_rope), -1)
    qb, kb, vb = (t[n:].view(batch, length, heads, -1).transpose(1, 2) for t in (q, k, v))
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    scores = (qb @ kb.transpose(-1, -2)).float().masked_fill(future, float("-inf"))
    if n == 0:
        prob = scores.softmax(-1)
        guided = guide_loss(prob, guides)
        out = (prob.to(kind) @ vb).transpose(1, 2).reshape(batch * length, -1)
    else:
        qp, kp, vp = (t[:n].transpose(0, 1) for t in (q, k, v))
        own = (qp @ kp.transpose(-1, -2)).float().masked_fill(
            torch.ones(n, n, dtype=torch.bool).triu(1), float("-inf"))
        out_prefix = (own.softmax(-1).to(kind) @ vp).transpose(0, 1).reshape(n, -1)
        seen = (q[n:].transpose(0, 1) @ kp.transpose(-1, -2)).float()
        seen = seen.view(heads, batch, length, n).transpose(0, 1)
        prob = torch.cat((seen, scores), -1).softmax(-1)
        guided = guide_loss(prob[..., n:], guides)
        prob = prob.to(kind)
        far = prob[..., :n].transpose(0, 1).reshape(heads, batch * length, n) @ vp
        out = (prob[..., n:] @ vb).transpose(1, 2).reshape(batch * length, heads, vdim)
        out = torch.cat((out_prefix, (out + far.transpose(0, 1)).flatten(1)))
    return out, guided


def dense_tail(x, attended, w, s, see=None):
    """Rest of a dense layer after attention()."""
    if see:
        see("o_proj", attended)
    x = x + F.linear(attended, w["o_proj"]).float()
    y = rms_norm(x, w["post_attention_layernorm"], s.rms_norm_eps).to(attended.dtype)
    return x + swiglu(y, w, see).float()


def moe_scores(x, attended, w, s, see=None):
    """(residual stream, feed-forward input, router scores) of a layer with experts."""
    x = x + F.linear(attended, w["o_proj"]).float()
    y = rms_norm(x, w["post_attention_layernorm"], s.rms_norm_eps)
    if see:
        see("o_proj", attended)
        see("gate", y)
    return x, y.to(attended.dtype), F.linear(y, w["gate"]).sigmoid()


def moe_tail(x, y, routed, weight, w, see=None):
    """Adds shared and routed experts. routed [n, top_k, hidden], weight [n, top_k] float32."""
    mixed = (routed.float() * weight.unsqueeze(-1)).sum(1)
    return x + mixed + swiglu(y, w, see).float()


def silu_mul(gate, up):
    return (F.silu(gate.float()) * up).to(gate.dtype)


def silu_mul_grad(grad, gate, up):
    """Gradients of silu(gate) * up with respect to gate and up."""
    gate32 = gate.float()
    sig = gate32.sigmoid()
    d_gate = grad * up * sig * (1 + gate32 * (1 - sig))
    return d_gate.to(gate.dtype), (grad * gate32 * sig).to(gate.dtype)


class Experts(torch.autograd.Function):
    """All chosen experts of all rows: y [n, h], index [n, k] -> [n, k, h]; weights [e, out, in]."""

    @staticmethod
    def forward(ctx, y, index, gate_w, up_w, down_w):
        k, kind = index.shape[1], y.dtype
        order = index.flatten().argsort()
        back = torch.empty_like(order)
        back[order] = torch.arange(order.numel())
        ends = torch.bincount(index.flatten(), minlength=gate_w.shape[0]).cumsum(0).tolist()
        spans = [(e, a, b) for e, (a, b) in enumerate(zip([0] + ends[:-1], ends)) if a < b]
        x = y[order // k]
        gate, up = (torch.empty(x.shape[0], gate_w.shape[1], dtype=kind) for _ in range(2))
        out = torch.empty_like(x)
        for e, a, b in spans:
            torch.mm(x[a:b], gate_w[e].T, out=gate[a:b])
            torch.mm(x[a:b], up_w[e].T, out=up[a:b])
        inner = silu_mul(gate, up)
        for e, a, b in spans:
            torch.mm(inner[a:b], down_w[e].T, out=out[a:b])
        ctx.save_for_backward(order, back, x, gate, up, inner, gate_w, up_w, down_w)
        ctx.spans, ctx.shape = spans, (index.shape[0], k, y.shape[1])
        return out[back].view(ctx.shape)

    @staticmethod
    def backward(ctx, grad):
        order, back, x, gate, up, inner, gate_w, up_w, down_w = ctx.saved_tensors
        grad = grad.reshape(x.shape)[order]
        d_inner, d_x = torch.empty_like(inner), torch.empty_like(x)
        d_gate_w, d_up_w, d_down_w = (torch.zeros_like(w) for w in (gate_w, up_w, down_w))
        for e, a, b in ctx.spans:
            torch.mm(grad[a:b], down_w[e], out=d_inner[a:b])
            torch.mm(grad[a:b].T, inner[a:b], out=d_down_w[e])
        d_gate, d_up = silu_mul_grad(d_inner, gate, up)
        for e, a, b in ctx.spans:
            torch.mm(d_gate[a:b].T, x[a:b], out=d_gate_w[e])
            torch.mm(d_up[a:b].T, x[a:b], out=d_up_w[e])
            torch.mm(d_gate[a:b], gate_w[e], out=d_x[a:b])
            d_x[a:b].addmm_(d_up[a:b], up_w[e])
        return d_x[back].view(ctx.shape).sum(1), None, d_gate_w, d_up_w, d_down_w


def observe_experts(see, y, index, w):
    """Calls see with the inputs of every expert's matrices (they are hidden inside Experts)."""
    for e in range(w["experts.gate_proj"].shape[0]):
        part = y[(index == e).any(1)]
        if part.shape[0]:
            inner = silu_mul(F.linear(part, w["experts.gate_proj"][e]),
                             F.linear(part, w["experts.up_proj"][e]))
            see("experts.gate_proj", part, e)
            see("experts.up_proj", part, e)
            see("experts.down_proj", inner, e)


class QuizModel:
    """Functional model over a dict of weights; float32 master weights, any compute type."""

    def __init__(self, shape, weights, dtype=torch.float32, observe=None):
        """`observe(layer, name, rows, expert)` gets the input of every matrix of the layers."""
        self.shape, self.dtype, self.observe, self.weights = shape, dtype, observe, weights
        self.guided = 0.0  # sum of the guide losses of the last forward pass
        self.load = {}     # layer -> rows each expert received in the last forward pass
        self.chosen = {}   # layer -> experts of each row [rows, top_k]
        d = shape.qk_rope_head_dim
        inv_freq = shape.rope_theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
        angle = torch.arange(512, dtype=torch.float64)[:, None] * inv_freq
        self.cos, self.sin = angle.cos().float(), angle.sin().float()
        self.cast()

    def cast(self):
        """Refreshes the compute copies of the weights; call after every optimiser step."""
        keep = ("norm.weight", "gate.weight", "bias")
        self.layers = [{} for _ in range(self.shape.num_hidden_layers)]
        for name, w in self.weights.items():
            if not name.startswith("model.layers."):
                continue
            layer, short = name.removeprefix("model.layers.").split(".", 1)
            for cut in ("self_attn.", "mlp.", "shared_experts.", "gate.e_score_correction_"):
                short = short.removeprefix(cut)
            short = short.removesuffix(".weight")
            self.layers[int(layer)][short] = w if name.endswith(keep) else w.to(self.dtype)

    def forward(self, tokens, prefix=None, at=None, counted=None, guides=None):
        """Logits [len(at), vocab] float32.

        tokens [batch, length] int64; prefix [n] int64 or None: tokens that precede every row;
        at: indices into the flattened batch that want logits (default all);
        counted [batch, length] bool: positions that count in self.load (default all);
        guides: layer -> list of (head, wanted), see guide_loss.
        """
        s, self.guided = self.shape, 0.0
        batch, length = tokens.shape
        n = 0 if prefix is None else len(prefix)
        flat = tokens.flatten() if n == 0 else torch.cat((prefix, tokens.flatten()))
        position = torch.cat((torch.arange(n), torch.arange(n, n + length).repeat(batch)))
        cos, sin = self.cos[position][:, None], self.sin[position][:, None]
        if counted is not None:
            counted = torch.cat((torch.ones(n, dtype=torch.bool), counted.flatten()))
        x = F.embedding(flat, self.weights["model.embed_tokens.weight"])
        for i, w in enumerate(self.layers):
            see = self.observe and (lambda name, rows, e=None: self.observe(i, name, rows, e))
            y, guided = attention(x, w, cos, sin, n, batch, length, s,
                                  (guides or {}).get(i, ()), see)
            self.guided = self.guided + guided
            if i == s.num_hidden_layers - 1:
                x, y = (x[n:], y[n:]) if at is None else (x[at + n], y[at + n])
                counted = counted[n:][at] if counted is not None and at is not None else None
            if i < s.first_k_dense_replace:
                x = dense_tail(x, y, w, s, see)
                continue
            x, y, scores = moe_scores(x, y, w, s, see)
            index, weight = route(scores, w["bias"], s)
            rows = index if counted is None else index[counted]
            self.load[i] = torch.bincount(rows.flatten(), minlength=s.n_routed_experts)
            self.chosen[i] = index
            if see:
                observe_experts(see, y, index, w)
            routed = Experts.apply(y, index, w["experts.gate_proj"], w["experts.up_proj"],
                                   w["experts.down_proj"])
            x = moe_tail(x, y, routed, weight, w, see)
        y = rms_norm(x, self.weights["model.norm.weight"], s.rms_norm_eps).to(self.dtype)
        if self.observe:
            self.observe(None, "lm_head", y, None)
        return F.linear(y, self.weights["lm_head.weight"].to(self.dtype)).float()
