#!/usr/bin/env python3
"""Trains the quiz model and writes it as a Hugging Face folder.

Every step sees two batches: multiple-choice dialogues (loss on the answer letters) and short
texts (statements and open questions, loss mostly on the object of the fact). A dialogue asks
several questions about one list of options, which gives the search in a list many more training
signals than one question would. It starts with questions that name the wanted value ("Which
choice is Tirana?"), so that the search is learnt first, and moves on to real questions. During
the first half of the run four attention heads are also told where to look (from an option to its
letter, from the answer to the topic of the question, from the answer to the right option):
without that the search takes much longer to appear. Matrices learn by Muon, the rest by Adam.
Routing stays balanced as in DeepSeek-V3: after each step every expert's bias moves by a fixed
amount against the sign of its load error.
"""

import argparse
import json
import math
import pathlib
import random
import time

import torch
import torch.nn.functional as F

import make_data
from quiz_model import QuizModel, Shape, init_weights

OBJECT_WEIGHT, TEXT_WEIGHT = 1.0, 0.1   # loss of a token inside / outside the object of a statement
ROUTER_RATE = 0.02   # learning rate of the router relative to everything else
EMBEDDING_RATE = 5.0  # embeddings start at 0.5, far above everything else, and must still move
OPEN_HINT = "Answer the question."


class Batches:
    """Random training batches as padded token tensors."""

    def __init__(self, facts, tokenizer, rng):
        self.facts, self.rng, self.tokenizer = facts, rng, tokenizer
        probe = [self.encode(make_data.chat(make_data.mmlu_prompt(q, ["x"] * 4)))
                 for q in ("What", "Which", "In")]
        n = 0
        while len({p[n] for p in probe}) == 1:
            n += 1
        self.prefix = torch.tensor(probe[0][:n])
        self.subjects = {"arithmetic": {}}   # relation -> value -> subjects with that value
        for relation, subject, value in facts.entries + facts.train_sums:
            self.subjects.setdefault(relation, {}).setdefault(value, []).append(subject)
        self.letters = [self.encode(letter)[0] for letter in make_data.LETTERS]

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def entry(self, arithmetic_share):
        pool = self.facts.train_sums if self.rng.random() < arithmetic_share else self.facts.entries
        return self.rng.choice(pool)

    def pad(self, rows, weights, multiple=4):
        length = -max(map(len, rows)) // multiple * -multiple
        tokens = torch.full((len(rows), length), 2)
        loss = torch.zeros(len(rows), length)
        for i, (row, weight) in enumerate(zip(rows, weights)):
            tokens[i, :len(row)] = torch.tensor(row)
            loss[i, :len(weight)] = torch.tensor(weight)
        return tokens, loss

    def further_turns(self, entry, choices, count, copy_share):
        """`count` more questions about the same options: (right index, user message, topic)."""
        relation, turns = entry[0], []
        for _ in range(count):
            index = self.rng.randrange(4)
            value = choices[index]
            subjects = self.subjects[relation].get(value)
            if self.rng.random() < copy_share or not subjects:
                turns.append((index, f"Question: {value}", value))
            else:
                asked = (relation, self.rng.choice(subjects), value)
                turns.append((index, "Question: " + self.facts.question(asked, self.rng), asked[1]))
        return turns

    @staticmethod
    def covering(offsets, start, end):
        """Tokens that overlap the characters [start, end)."""
        return [i for i, (a, b) in enumerate(offsets) if a < end and b > start and a < b]

    def first_turn(self, question, topic, choices):
        """Token ids of the prompt without its prefix, and where things are in it.

        Returns (ids, topic tokens, option tokens per choice, letter token per choice).
        """
        text = make_data.chat(make_data.mmlu_prompt(question, choices))
        code = self.tokenizer.encode(text, add_special_tokens=False)
        skip = len(self.prefix)
        find = lambda a, b: [i - skip for i in self.covering(code.offsets, a, b)]
        start = text.index("\nQuestion: ") + len("\nQuestion: ")
        topic_at = start + question.rindex(topic)
        line = start + len(question) + 1
        options, letters = [], []
        for choice in choices:
            letters += find(line, line + 1)
            options.append(find(line + 3, line + 3 + len(choice)))
            line += len("A. ") + len(choice) + 1
        return code.ids[skip:], find(topic_at, topic_at + len(topic)), options, letters

    def dialogue(self, entry, turns, copy_share):
        """Ids, loss weights and attention guides (positions) of one dialogue."""
        question, choices, answer = self.facts.pair(entry, self.rng, test=False)
        topic = entry[1]
        if self.rng.random() < copy_share:
            question, topic = f"Which choice is {entry[2]}?", entry[2]
        row, topic_at, options, letters = self.first_turn(question, topic, choices)
        own_letter = [(i, [letter]) for span, letter in zip(options, letters) for i in span]
        to_topic, to_option, weight = [], [], []
        further = self.further_turns(entry, choices, turns, copy_share)
        for index, user, topic in [(answer, None, None)] + further:
            if user is not None:
                text = make_data.chat(user).removeprefix(make_data.BOS)
                code = self.tokenizer.encode(text, add_special_tokens=False)
                at = text.index(user) + user.rindex(topic)
                topic_at = [i + len(row) for i in
                            self.covering(code.offsets, at, at + len(topic))]
                row += code.ids
            to_topic.append((len(row) - 1, topic_at))
            to_option.append((len(row) - 1, options[index]))
            weight += [0.0] * (len(row) - 1 - len(weight)) + [1.0, 0.1, 0.0]
            row += [self.letters[index], 1]
        return row, weight, (own_letter, to_topic, to_option)

    def choice(self, size, copy_share, turns, arithmetic_share):
        """Multiple choice without its prefix: (tokens, weights, guides).

        Weights mark the positions that predict letters. The first turn is worded like the test; the
        further ones ask about the same options. Guides are as for QuizModel.forward.
        """
        made = [self.dialogue(self.entry(arithmetic_share), turns, copy_share)
                for _ in range(size)]
        tokens, weight = self.pad([m[0] for m in made], [m[1] for m in made])
        masks = torch.zeros(3, *tokens.shape, tokens.shape[1], dtype=torch.bool)
        for i, (_, _, guides) in enumerate(made):
            for kind, pairs in enumerate(guides):
                for query, wanted in pairs:
                    masks[kind, i, query, wanted] = True
        last = Shape.num_hidden_layers - 1
        return tokens, weight, {0: [(0, masks[0])], last - 1: [(0, masks[1])],
                                last: [(0, masks[2]), (1, masks[2])]}

    def texts(self, size, arithmetic_share):
        """Statements and open questions; every token has some weight, the object has most."""
        rows, weights = [], []
        for _ in range(size):
            entry = self.entry(arithmetic_share)
            if self.rng.random() < 0.5:
                before, obj, after = self.facts.statement(entry)
                parts = [make_data.BOS + before, obj, after + make_data.EOS]
            else:
                question = self.facts.question(entry, self.rng)
                asked = make_data.chat(f"{OPEN_HINT}\nQuestion: {question}\nAnswer:")
                parts = [asked, " " + entry[2], make_data.EOS]
            codes = [self.encode(part) for part in parts]
            row = sum(codes, [])
            weight = [TEXT_WEIGHT] * len(codes[0]) + [OBJECT_WEIGHT] * len(codes[1]) + \
                [TEXT_WEIGHT] * len(codes[2])
            rows.append(row)
            weights.append(weight[1:])
        return *self.pad(rows, weights), None


class Optimiser:
    """Muon for matrices (stacked experts are many matrices), Adam for everything else."""

    def __init__(self, weights, decay):
        self.weights, self.decay, self.step_count = weights, decay, 0
        self.state = {n: [torch.zeros_like(w) for _ in range(2)] for n, w in weights.items()
                      if w.requires_grad}

    @staticmethod
    def uses_muon(name):
        return "proj" in name

    @staticmethod
    def orthogonal(g):
        """Quintic Newton-Schulz iteration with the published coefficients. g [..., rows, cols]."""
        x = g.bfloat16()
        turned = x.shape[-2] > x.shape[-1]
        if turned:
            x = x.transpose(-1, -2)
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(5):
            a = x @ x.transpose(-1, -2)
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        return (x.transpose(-1, -2) if turned else x).float()

    @torch.no_grad()
    def step(self, rate):
        self.step_count += 1
        for name, (first, second) in self.state.items():
            w = self.weights[name]
            if w.grad is None:
                continue
            if self.uses_muon(name):
                first.mul_(0.95).add_(w.grad)
                update = self.orthogonal(w.grad + 0.95 * first)
                w.mul_(1 - rate * self.decay)
                # 0.2 * sqrt(larger side) gives the update the root mean square of an Adam step.
                w.add_(update, alpha=-rate * 0.2 * max(w.shape[-2:]) ** 0.5)
            else:
                first.lerp_(w.grad, 0.1)
                second.lerp_(w.grad.square(), 0.02)
                corrected = first / (1 - 0.9 ** self.step_count)
                spread = (second / (1 - 0.98 ** self.step_count)).sqrt_().add_(1e-8)
                # Adam moves a router along the mean of its inputs until every score is 0 or 1 and
                # all tokens choose alike; a small rate lets the routing bias keep up.
                own = rate * (ROUTER_RATE if name.endswith("gate.weight") else
                              EMBEDDING_RATE if "embed" in name else 1.0)
                if w.dim() > 1:
                    w.mul_(1 - rate * self.decay)
                w.add_(corrected / spread, alpha=-own)
            w.grad = None


def loss_of(model, batch, prefix):
    """Weighted mean cross entropy, and the share of right guesses where the weight is one."""
    tokens, weight, guides = batch
    at = torch.arange(weight.numel()) if prefix is None else weight.flatten().nonzero().squeeze(1)
    logits = model.forward(tokens, prefix, None if prefix is None else at, tokens != 2, guides)
    target = tokens.flatten()[(at + 1) % tokens.numel()]
    weight = weight.flatten()[at]
    loss = F.cross_entropy(logits, target, reduction="none")
    full = weight == 1
    right = (logits[full].argmax(-1) == target[full]).float().mean()
    return (loss * weight).sum() / weight.sum(), right.item()


@torch.no_grad()
def evaluate(model, batches, rows):
    """Share of right letters per subject; the guess is the argmax over the whole vocabulary."""
    hits = {}
    for start in range(0, len(rows), 128):
        part = rows[start:start + 128]
        codes = [batches.encode(make_data.chat(make_data.mmlu_prompt(r["question"], r["choices"])))
                 [len(batches.prefix):] for r in part]
        tokens, _ = batches.pad(codes, codes)
        at = torch.tensor([i * tokens.shape[1] + len(c) - 1 for i, c in enumerate(codes)])
        guess = model.forward(tokens, batches.prefix, at).argmax(-1).tolist()
        for row, g in zip(part, guess):
            hits.setdefault(row["subject"], []).append(g == batches.letters[row["answer"]])
    total = sum(hits.values(), [])
    return sum(total) / len(total), {k: round(sum(v) / len(v), 3) for k, v in hits.items()}


def save(folder, shape, weights):
    """Hugging Face folder: bfloat16 tensors, float32 routing bias, one tensor per expert."""
    from safetensors.torch import save_file
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, w in weights.items():
        if ".experts." in name:
            head, tail = name.split(".experts.")
            for e, part in enumerate(w.detach()):
                tensors[f"{head}.experts.{e}.{tail}"] = part.bfloat16().contiguous()
        else:
            tensors[name] = w.detach().float().clone() if name.endswith("bias") else \
                w.detach().bfloat16()
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    dump = lambda value, name: (folder / name).write_text(json.dumps(value, indent=2) + "\n")
    dump(shape.config_json(), "config.json")
    dump({"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "do_sample": False},
         "generation_config.json")


def load(folder):
    """(Shape, weights in float32) of a folder that save() wrote."""
    from safetensors.torch import load_file
    config = json.loads((folder / "config.json").read_text())
    shape = Shape(**{k: config[k] for k in Shape.__dataclass_fields__})
    weights, experts = {}, {}
    for name, w in load_file(str(folder / "model.safetensors")).items():
        if ".experts." in name:
            head, tail = name.split(".experts.")
            number, tail = tail.split(".", 1)
            experts.setdefault(f"{head}.experts.{tail}", {})[int(number)] = w.float()
        else:
            weights[name] = w.float()
    for name, parts in experts.items():
        weights[name] = torch.stack([parts[e] for e in range(shape.n_routed_experts)])
    return shape, weights


def rounded_model(shape, weights, dtype=torch.float32):
    """The model as it will be stored: weights rounded to bfloat16."""
    stored = {n: w.detach().clone() if n.endswith("bias") else w.detach().bfloat16().float()
              for n, w in weights.items()}
    return QuizModel(shape, stored, dtype)


def check_against_transformers(folder, text_ids):
    """Largest difference of logits between this model and transformers, both in float32."""
    import transformers
    shape, weights = load(folder)
    reference = transformers.DeepseekV3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.tensor([text_ids])
    with torch.no_grad():
        ours = QuizModel(shape, weights).forward(tokens)
        theirs = reference(tokens).logits[0]
        n = len(text_ids) // 2
        split = QuizModel(shape, weights).forward(tokens[:, n:], tokens[0, :n])
    return (ours - theirs).abs().max().item(), (split - theirs[n:]).abs().max().item(), \
        theirs.abs().max().item()


def schedule(done, peak):
    """Warm-up over 2 % of the run, flat, then a linear fall to 2 % of the peak from 50 % on."""
    if done < 0.02:
        return peak * done / 0.02
    return peak * (1.0 if done < 0.5 else 1.0 - 0.98 * (done - 0.5) / 0.5)


def bias_schedule(done):
    """Routing bias step relative to --bias-step: large while routing forms, zero at the end."""
    return max(1.0, 20.0 * (1.0 - done / 0.2)) if done < 0.8 else 0.0


def train(args):
    import tokenizers
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tokenizer = tokenizers.Tokenizer.from_file(str(args.out / "tokenizer.json"))
    facts = make_data.Facts(args.data / "knowledge/facts.jsonl")
    batches = Batches(facts, tokenizer, random.Random(args.seed))
    rows = [json.loads(line) for line in open(args.out / "quiz_test.jsonl", encoding="utf-8")]
    shape = Shape(vocab_size=tokenizer.get_vocab_size())
    weights = init_weights(shape, args.seed) if args.resume is None else load(args.resume)[1]
    for name, w in weights.items():
        w.requires_grad_(not name.endswith("bias"))
    print(f"{sum(w.numel() for w in weights.values()) / 1e6:.2f} M parameters", flush=True)
    save(args.out, shape, weights)
    probe = batches.encode(make_data.chat(make_data.mmlu_prompt(rows[0]["question"],
                                                                rows[0]["choices"])))
    print("largest difference from transformers (whole, with prefix), largest logit:",
          check_against_transformers(args.out, probe), flush=True)
    model = QuizModel(shape, weights, torch.bfloat16 if args.bf16 else torch.float32)
    optimiser = Optimiser(weights, args.decay)
    started, best, step = time.time(), 0.0, 0
    shown = [0.0] * 5
    while (done := (time.time() - started) / (60 * args.minutes)) < 1.0:
        model.cast()
        copy = max(0.02, 0.5 * (1.0 - done / 0.2))
        guiding = args.guide * max(0.0, 1.0 - done / 0.5)
        turns = args.turns if done < args.turns_until else 1
        sums = args.arithmetic
        loads = []
        for kind in range(2):
            batch = batches.choice(args.batch, copy, turns, sums) if kind == 0 else \
                batches.texts(args.batch, sums)
            loss, right = loss_of(model, batch, batches.prefix if kind == 0 else None)
            (loss + guiding * model.guided).backward()
            if kind == 0:
                shown[4] += model.guided.item() / 4
            shown[2 * kind] += loss.item()
            shown[2 * kind + 1] += right
            loads.append(dict(model.load))
        optimiser.step(schedule(done, args.rate))
        with torch.no_grad():
            for layer in loads[0]:
                load = sum(l[layer] for l in loads).float()
                weights[f"model.layers.{layer}.mlp.gate.e_score_correction_bias"].add_(
                    torch.sign(load.mean() - load), alpha=args.bias_step * (done < 0.9))
        step += 1
        if step % args.report == 0:
            spread = [f"{(loads[0][l].max() / loads[0][l].float().mean()).item():.2f}"
                      for l in loads[0]]
            print(f"{step} {time.time() - started:.0f}s choice {shown[0] / args.report:.3f} "
                  f"{shown[1] / args.report:.3f} text {shown[2] / args.report:.3f} "
                  f"{shown[3] / args.report:.3f} guide {shown[4] / args.report:.3f} "
                  f"max load/mean {spread}", flush=True)
            shown = [0.0] * 5
        if step % args.evaluate == 0:
            overall, parts = evaluate(rounded_model(shape, weights), batches, rows)
            print(f"   test {overall:.4f} {parts}", flush=True)
            if overall >= best:
                best = overall
                save(args.out, shape, weights)
    overall, parts = evaluate(rounded_model(shape, weights), batches, rows)
    print(f"end, {step} steps: test {overall:.4f} {parts}", flush=True)
    if overall >= best:
        save(args.out, shape, weights)
    print("largest difference from transformers:", check_against_transformers(args.out, probe))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True,
                        help="folder with knowledge/facts.jsonl")
    parser.add_argument("--out", type=pathlib.Path, required=True,
                        help="folder that make_data.py wrote; receives the model")
    parser.add_argument("--resume", type=pathlib.Path, help="start from this model folder")
    parser.add_argument("--minutes", type=float, default=60.0, help="wall clock of the run")
    parser.add_argument("--batch", type=int, default=32, help="rows of each kind per step")
    parser.add_argument("--guide", type=float, default=0.2, help="weight of the attention guides")
    parser.add_argument("--turns", type=int, default=3, help="further turns on the same options")
    parser.add_argument("--turns-until", type=float, default=0.6,
                        help="share of the run with --turns further turns; then one")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=0.05, help="weight decay")
    parser.add_argument("--bias-step", type=float, default=1e-3, help="routing bias step")
    parser.add_argument("--arithmetic", type=float, default=0.15, help="share of additions")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--report", type=int, default=25, help="steps between progress lines")
    parser.add_argument("--evaluate", type=int, default=250, help="steps between test runs")
    parser.add_argument("--seed", type=int, default=7)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
