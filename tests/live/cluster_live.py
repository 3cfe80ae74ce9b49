#!/usr/bin/env python3
"""A whole cluster against clients and engines that are not ours.

Starts `tandem up` on models/quiz and its GGUF files in turn, and asks with gRPC's Python client:

  * 20 quiz prompts as token ids; the distribution after each is compared with transformers
    (float32) and llama.cpp computed on the spot: mean KL divergence and agreement of the best token
  * GetModelInfo against config.json; Tokenize and Detokenize against the tokenizers library, chat
    prompts against transformers' apply_chat_template
  * health, reflection, refusals of bad requests, metrics by Prometheus' own parser
"""

import json
import math
import random
import sys
import tempfile
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))
import live_support  # noqa: E402
from live_support import ROOT  # noqa: E402

sys.path[:0] = [
    str(ROOT / "tests/golden"),
    str(ROOT / "tests/golden/text"),
    str(ROOT / "tools/quiz"),
]

MODEL = ROOT / "models/quiz"
FILES = {
    "bf16": MODEL,
    "q8_0": MODEL / "gguf/quiz-Q8_0.gguf",
    "q4_K_M": MODEL / "gguf/quiz-Q4_K_M.gguf",
    "iq1_s": MODEL / "gguf/quiz-IQ1_S.gguf",
}
EVERY = 10  # of the 200 prompts of the golden vectors: 20 are asked
REPORTED = 256  # the most log-probabilities an answer may list
LINES = 400  # tokenized and back, per file
WAIT_S_MAX = 120  # per call
# Noise in the manifest is a mean over 200 prompts of a heavy-tailed quantity; there 3 covers its
# scatter. The scatter of a mean grows with the root of how many fewer prompts there are.
SAFETY = 3 * math.sqrt(EVERY)
SERVICE = "tandem.inference.v1.Inference"


class Client:
    """Calls on one cluster; counts what it asked for, to be found in the metrics again."""

    def __init__(self, address, stubs):
        import grpc

        self.channel = grpc.insecure_channel(address)
        self.pb, self.sampling = stubs["inference_pb2"], stubs["sampling_pb2"]
        self.stub = stubs["inference_pb2_grpc"].InferenceStub(self.channel)
        self.answered = self.generated = 0

    def generate(self, **fields):
        chunks = list(self.stub.Generate(self.pb.GenerateRequest(**fields), timeout=WAIT_S_MAX))
        self.answered += 1
        self.generated += sum(len(c.tokens) for c in chunks)
        return chunks

    def next_token(self, **prompt):
        """(id, {id: log-probability}) of the most likely token after the prompt."""
        sampling = self.sampling.SamplingParams(temperature=0, logprobs=True, top_logprobs=REPORTED)
        chunks = self.generate(max_tokens=1, sampling=sampling, **prompt)
        tokens = [t for c in chunks for t in c.tokens]
        if len(tokens) != 1:
            raise RuntimeError(f"expected one token, got {len(tokens)}")
        return tokens[0].id, {e.token_id: e.logprob for e in tokens[0].logprobs.top}

    def next_token_of_ids(self, ids):
        return self.next_token(tokens=self.pb.TokenPrompt(ids=ids))


def divergence(reference, answers):
    """Mean KL(reference || answer), one bucket for what is not listed. reference [prompts, vocab]."""
    import numpy as np

    total = 0.0
    for logprobs, (_, top) in zip(reference, answers):
        ids, q = np.array(list(top)), np.array(list(top.values()), np.float64)
        p = logprobs[ids]
        p_rest, q_rest = 1 - np.exp(p).sum(), 1 - np.exp(q).sum()
        total += float((np.exp(p) * (p - q)).sum())
        if p_rest > 1e-6:  # below that it is the rounding of the sum
            total += p_rest * math.log(p_rest / max(q_rest, 1e-9))
    return total / len(answers)


def rounding(kind):
    """Mean KL that rounding explains: of activations to bf16 here, to int8 twice if quantized."""
    noise = json.loads((ROOT / "tests/golden/quiz/MANIFEST.json").read_text())["noise"]
    mean = lambda key: noise[f"{key}: against transformers_f32"]["kl_mean"]  # noqa: E731
    quantized = 0.0 if kind == "bf16" else 2 * mean("q8_0")
    return SAFETY * (mean("transformers bfloat16") + mean("bf16") + quantized)


def compare(checks, name, reference, answers, allowed):
    kl = divergence(reference, answers)
    same = sum(int(row.argmax()) == token for row, (token, _) in zip(reference, answers))
    checks.expect(
        f"{name}, mean KL",
        -1e-6 <= kl <= allowed,
        f"{kl:.3g} nats over {len(answers)} prompts, allowed {allowed:.3g}; {same} best tokens"
        " agree",
    )


def compare_best(checks, name, reference, answers, allowed):
    # Total variation is at most sqrt(KL / 2) (Pinsker), and the best token can change only where
    # the two best are closer than twice that. Prompts at the allowed mean whose margin is larger
    # must agree.
    import numpy as np

    best_two = np.sort(np.exp(reference), -1)[:, -2:]
    close = int((best_two[:, 1] - best_two[:, 0] < 2 * math.sqrt(allowed / 2)).sum())
    same = sum(int(row.argmax()) == token for row, (token, _) in zip(reference, answers))
    checks.expect(
        f"{name}, best token",
        same >= len(answers) - close,
        f"{same} of {len(answers)} agree, {close} are too close to call",
    )


def compare_engines(checks, kind, client, prompts, float32, llama):
    answers = [client.next_token_of_ids(p) for p in prompts]
    allowed = rounding(kind)
    compare(checks, f"{kind} and llama.cpp", llama, answers, allowed)
    compare_best(checks, f"{kind} and llama.cpp", llama, answers, allowed)
    # transformers has the weights before quantization. The root of a small KL behaves as a
    # distance: ours from float32 is at most llama.cpp's from float32 and ours from llama.cpp's.
    import numpy as np

    lost = float((np.exp(float32) * (float32 - llama)).sum(-1).mean())
    compare(
        checks,
        f"{kind} and transformers",
        float32,
        answers,
        (math.sqrt(lost) + math.sqrt(allowed)) ** 2,
    )


def check_info(checks, kind, client, tokenizer):
    config = json.loads((MODEL / "config.json").read_text())
    info = client.stub.GetModelInfo(client.pb.GetModelInfoRequest(), timeout=WAIT_S_MAX)
    expected = {
        "vocab_size": config["vocab_size"],
        "bos_token_id": config["bos_token_id"],
        "ready": True,
        "cpu_workers_ready": 2,
        "gpu_workers_ready": 1,
        "not_ready_reason": "",
    }
    found = {name: getattr(info, name) for name in expected}
    good = (
        found == expected
        and config["eos_token_id"] in info.eos_token_ids
        and info.digest
        and info.version
    )
    checks.expect(
        f"{kind}, GetModelInfo",
        good and tokenizer.get_vocab_size() == info.vocab_size and 0 < info.context_tokens,
        f"{found}, model_type {info.model_type}, experts {info.expert_formats}, version"
        f" {info.version}",
    )


def check_text(checks, kind, client, tokenizer):
    import text_lines

    lines = text_lines.lines(20261125, 20 * LINES)[::20]
    pb, wrong, back = client.pb, 0, 0
    for line in lines:
        ids = tokenizer.encode(line, add_special_tokens=False).ids
        reply = client.stub.Tokenize(
            pb.TokenizeRequest(text=line, parse_special=True), timeout=WAIT_S_MAX
        )
        wrong += list(reply.ids) != ids
        reply = client.stub.Detokenize(pb.DetokenizeRequest(ids=ids), timeout=WAIT_S_MAX)
        back += reply.text != tokenizer.decode(ids, skip_special_tokens=False)
    checks.expect(
        f"{kind}, Tokenize", wrong == 0, f"{wrong} of {len(lines)} lines differ from tokenizers"
    )
    checks.expect(
        f"{kind}, Detokenize", back == 0, f"{back} of {len(lines)} lines differ from tokenizers"
    )
    draw, broken = random.Random(20261125), 0
    for i in range(LINES):  # ids that no text gives: cut characters, specials in between
        ids = [draw.randrange(tokenizer.get_vocab_size()) for _ in range(draw.randint(1, 12))]
        reply = client.stub.Detokenize(
            pb.DetokenizeRequest(ids=ids, skip_special=i % 2 == 1), timeout=WAIT_S_MAX
        )
        broken += reply.text != tokenizer.decode(ids, skip_special_tokens=i % 2 == 1)
    checks.expect(
        f"{kind}, Detokenize random ids", broken == 0, f"{broken} of {LINES} differ from tokenizers"
    )


def check_chat(checks, kind, client, prompts, rows):
    """Conversations are rendered as transformers does, and answered as their token ids are."""
    import make_data
    import transformers

    reference = transformers.AutoTokenizer.from_pretrained(MODEL)
    pb, wrong = client.pb, 0
    for i, row in enumerate(rows):
        talk = [{"role": "user", "content": make_data.mmlu_prompt(row["question"], row["choices"])}]
        if i % 2:
            talk = [
                {"role": "system", "content": "Be brief."},
                *talk,
                {"role": "assistant", "content": "A"},
                {"role": "user", "content": "Why?\n<｜User｜>"},
            ]
        text = reference.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        ids = reference.encode(text, add_special_tokens=False)
        chat = pb.ChatPrompt(messages=[pb.ChatMessage(**m) for m in talk])
        reply = client.stub.Tokenize(pb.TokenizeRequest(chat=chat), timeout=WAIT_S_MAX)
        wrong += reply.rendered != text or list(reply.ids) != ids
    checks.expect(
        f"{kind}, chat template",
        wrong == 0,
        f"{wrong} of {len(rows)} conversations differ from transformers",
    )
    chat = pb.ChatPrompt(
        messages=[
            pb.ChatMessage(
                role="user", content=make_data.mmlu_prompt(rows[0]["question"], rows[0]["choices"])
            )
        ]
    )
    by_chat, by_ids = client.next_token(chat=chat), client.next_token_of_ids(prompts[0])
    checks.expect(
        f"{kind}, chat and ids",
        by_chat == by_ids,
        f"tokens {by_chat[0]} and {by_ids[0]}, equal to the last bit",
    )


def check_health(checks, kind, client):
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub = health_pb2_grpc.HealthStub(client.channel)
    states = {
        service: health_pb2.HealthCheckResponse.ServingStatus.Name(
            stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=WAIT_S_MAX).status
        )
        for service in ("", SERVICE)
    }
    checks.expect(f"{kind}, health", set(states.values()) == {"SERVING"}, str(states))
    try:
        code = stub.Check(
            health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=WAIT_S_MAX
        )
    except grpc.RpcError as error:
        code = error.code()
    checks.expect(
        f"{kind}, health of an unknown service", code == grpc.StatusCode.NOT_FOUND, str(code)
    )


def check_reflection(checks, kind, client):
    """Every file that reflection describes is what proto/ says."""
    from google.protobuf import descriptor_pb2
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
        ProtoReflectionDescriptorDatabase,
    )

    database = ProtoReflectionDescriptorDatabase(client.channel)
    services = sorted(database.get_services())
    found = database.FindFileContainingSymbol(SERVICE)
    expected = descriptor_pb2.FileDescriptorProto()
    client.pb.DESCRIPTOR.CopyToProto(expected)
    same = [m.SerializeToString() for m in found.message_type] == [
        m.SerializeToString() for m in expected.message_type
    ] and [s.SerializeToString() for s in found.service] == [
        s.SerializeToString() for s in expected.service
    ]
    checks.expect(
        f"{kind}, reflection", SERVICE in services and same, f"services {', '.join(services)}"
    )


def refusal(call):
    import grpc

    try:
        call()
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


def check_refusals(checks, kind, client, vocab):
    pb, sampling = client.pb, client.sampling.SamplingParams
    hello = pb.TokenPrompt(ids=[0, 5])
    cases = {  # request: what the message must name
        "no prompt": (dict(max_tokens=1), "prompt"),
        "no tokens": (dict(tokens=pb.TokenPrompt(), max_tokens=1), "token"),
        "token beyond the vocabulary": (
            dict(tokens=pb.TokenPrompt(ids=[vocab]), max_tokens=1),
            str(vocab),
        ),
        "prompt beyond the context": (
            dict(tokens=pb.TokenPrompt(ids=[5] * 200_000), max_tokens=1),
            "200000",
        ),
        "negative temperature": (
            dict(tokens=hello, max_tokens=1, sampling=sampling(temperature=-1)),
            "temperature",
        ),
        "temperature is not a number": (
            dict(tokens=hello, max_tokens=1, sampling=sampling(temperature=math.nan)),
            "temperature",
        ),
        "top_p of 2": (dict(tokens=hello, max_tokens=1, sampling=sampling(top_p=2)), "top_p"),
        "too many log-probabilities": (
            dict(tokens=hello, max_tokens=1, sampling=sampling(top_logprobs=REPORTED + 1)),
            "256",
        ),
        "empty stop string": (dict(tokens=hello, max_tokens=1, stop=[""]), "stop"),
        "template arguments that are not JSON": (
            dict(
                chat=pb.ChatPrompt(
                    messages=[pb.ChatMessage(role="user", content="a")], template_args_json="{"
                ),
                max_tokens=1,
            ),
            "JSON",
        ),
        "conversation without messages": (dict(chat=pb.ChatPrompt(), max_tokens=1), "message"),
    }
    for name, (fields, named) in cases.items():
        code, details = refusal(
            lambda: list(client.stub.Generate(pb.GenerateRequest(**fields), timeout=WAIT_S_MAX))
        )
        checks.expect(
            f"{kind}, refusal: {name}",
            code == "INVALID_ARGUMENT" and details and named in details,
            f"{code}: {details}",
        )
    code, details = refusal(
        lambda: client.stub.Detokenize(pb.DetokenizeRequest(ids=[2**32 - 1]), timeout=WAIT_S_MAX)
    )
    checks.expect(
        f"{kind}, refusal: Detokenize of no token",
        code == "INVALID_ARGUMENT" and details,
        f"{code}: {details}",
    )


def scrape(admin):
    """{(sample name, labels): value}, and how many families, of one process."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=10) as reply:
        kind, text = reply.headers["Content-Type"], reply.read().decode()
    if not kind.startswith("text/plain") or "version=0.0.4" not in kind:
        raise RuntimeError(f"{admin}: content type {kind}")
    families = list(text_string_to_metric_families(text))
    if len({f.name for f in families}) != len(families) or any(
        f.type == "unknown" for f in families
    ):
        raise RuntimeError(f"{admin}: a family is listed twice or has no type")
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples
    }, families


def check_metrics(checks, kind, client, cluster):
    for process in cluster.state["processes"]:
        samples, families = scrape(process["admin"])
        buckets = [f for f in families if f.type == "histogram"]
        counted = all(
            samples[(f.name + "_count", ())] == samples[(f.name + "_bucket", (("le", "+Inf"),))]
            for f in buckets
            if (f.name + "_count", ()) in samples
        )
        ready = [
            urllib.request.urlopen(f"http://{process['admin']}{path}", timeout=10).status
            for path in ("/healthz", "/readyz")
        ]
        checks.expect(
            f"{kind}, metrics of {process['name']}",
            counted and ready == [200, 200] and len(families) > 5,
            f"{len(families)} families, {len(samples)} samples, {len(buckets)} histograms, probes"
            f" {ready}",
        )
        if process["role"] == "coordinator":
            answered = sum(
                v for (name, _), v in samples.items() if name == "tandem_request_success_total"
            )
            generated = samples[("tandem_generation_tokens_total", ())]
            checks.expect(
                f"{kind}, counters",
                (answered, generated) == (client.answered, client.generated),
                f"{answered:.0f} requests and {generated:.0f} tokens, sent {client.answered} and"
                f" {client.generated}",
            )


def check_file(checks, kind, cluster, stubs, inputs):
    rows, prompts, tokenizer, float32, llama = inputs
    client = Client(cluster.address, stubs)
    steps = {
        "engines": lambda: compare_engines(checks, kind, client, prompts, float32, llama),
        "info": lambda: check_info(checks, kind, client, tokenizer),
        "text": lambda: check_text(checks, kind, client, tokenizer),
        "chat": lambda: check_chat(checks, kind, client, prompts, rows),
        "health": lambda: check_health(checks, kind, client),
        "reflection": lambda: check_reflection(checks, kind, client),
        "refusals": lambda: check_refusals(checks, kind, client, tokenizer.get_vocab_size()),
        "metrics": lambda: check_metrics(checks, kind, client, cluster),
    }
    for name, step in steps.items():
        with checks.guarded(f"{kind}, {name}"):
            step()
    client.channel.close()


def main():
    arguments = live_support.parse_arguments(
        __doc__,
        lambda p: p.add_argument(
            "--files",
            nargs="+",
            choices=FILES,
            default=list(FILES),
            help="only these (default: all)",
        ),
    )
    import make_quiz_reference as reference
    import tokenizers
    import torch

    torch.set_num_threads(1)
    reference.use_plain_buffers()
    checks = live_support.Checks()
    tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    rows, prompts, _ = reference.read_prompts(MODEL)
    rows, prompts = rows[::EVERY], prompts[::EVERY]
    float32 = reference.with_transformers(MODEL, prompts)
    with tempfile.TemporaryDirectory() as work, live_support.grpc_stubs() as stubs:
        bf16 = Path(work, "bf16.gguf")
        live_support.run(
            sys.executable,
            ROOT / "tools/quiz/to_gguf.py",
            "--model",
            MODEL,
            "--out",
            bf16,
            wait_s_max=300,
        )
        for kind in arguments.files:
            with checks.guarded(kind):
                llama = reference.with_llama(bf16 if kind == "bf16" else FILES[kind], prompts)
                with live_support.Cluster(FILES[kind]) as cluster:
                    check_file(
                        checks, kind, cluster, stubs, (rows, prompts, tokenizer, float32, llama)
                    )
                    code = cluster.stop()
                    checks.expect(f"{kind}, SIGTERM", code == 0, f"`tandem up` ended with {code}")
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())
