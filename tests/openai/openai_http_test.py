"""OpenAI's endpoints of a real cluster, with nothing but sockets: what they answer, and what they do to clients that
send nonsense, leave, come in crowds or without a key. The model is models/quiz. Skips when a program is not built.
"""

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import time
from random import Random

from http_talk import MODEL, Talk, ask, eventually, events, metric, request_bytes
from live_support import PROGRAMS, Checks, Cluster

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "Which city is the capital of France?"}]
# Long enough to be caught in the middle on any machine.
LONG = {"prompt": "The", "max_tokens": 4000, "ignore_eos": True, "temperature": 1, "seed": 1}
CROWD = 64


def completion(address, **body):
    status, _, answer = ask(address, "POST", COMPLETIONS, body)
    assert status == 200, (status, answer)
    return answer


def test_small_endpoints(checks, http):
    status, fields, body = ask(http, "GET", "/health", fields=["x-request-id: my-id"])
    checks.expect("health", (status, body) == (200, {"status": "ok"}), body)
    checks.expect("request id comes back", fields.get("x-request-id") == "my-id", fields)
    _, _, models = ask(http, "GET", "/v1/models")
    model = models["data"][0]
    checks.expect(
        "models",
        model["id"] == "quiz" and isinstance(model["created"], int) and model["max_model_len"] == 4096,
        model,
    )
    checks.expect("one model", ask(http, "GET", "/v1/models/quiz")[2] == model, "the same as in the list")
    status, _, body = ask(http, "GET", "/v1/models/no%2Fsuch")
    checks.expect("no such model", status == 404 and "no/such" in body["error"]["message"], body)
    _, _, ids = ask(http, "POST", "/tokenize", {"prompt": "Hello you", "add_special_tokens": False})
    _, _, with_bos = ask(http, "POST", "/tokenize", {"prompt": "Hello you"})
    checks.expect("tokenize", with_bos["tokens"] == [0] + ids["tokens"] and ids["count"] == len(ids["tokens"]), ids)
    _, _, llama = ask(http, "POST", "/tokenize", {"content": "Hello you"})
    checks.expect("tokenize as llama.cpp asks", llama["tokens"] == ids["tokens"], llama)
    _, _, text = ask(http, "POST", "/detokenize", {"tokens": ids["tokens"]})
    checks.expect("detokenize", text["prompt"] == text["content"] == "Hello you", text)
    _, _, info = ask(http, "GET", "/tokenizer_info")
    checks.expect("tokenizer_info", info["eos_token"].startswith("<") and info["chat_template"], info["eos_token"])


def test_errors(checks, http):
    cases = [
        (404, "GET", "/v1/nothing", None),
        (404, "POST", "/v1/embeddings", {}),
        (405, "GET", CHAT, None),
        (405, "POST", "/v1/models", {}),
        (400, "POST", CHAT, {}),
        (400, "POST", COMPLETIONS, {}),
        (404, "POST", COMPLETIONS, {"model": "gpt-4", "prompt": "a"}),
        (400, "POST", COMPLETIONS, {"prompt": "a", "temperature": -1}),
        (400, "POST", COMPLETIONS, {"prompt": [5000]}),
        (400, "POST", COMPLETIONS, {"prompt": [1] * 4096}),
        (400, "POST", CHAT, {"messages": QUESTION, "tools": [{"type": "function"}]}),
        (400, "POST", COMPLETIONS, {"prompt": "a", "stop": [""]}),
        (400, "POST", COMPLETIONS, {"prompt": "a", "logit_bias": {"99999": 1}}),
    ]
    for expected, method, path, body in cases:
        status, fields, answer = ask(http, method, path, body)
        error = (answer or {}).get("error", {})
        checks.expect(
            f"{expected} {method} {path}",
            status == expected
            and set(error) == {"message", "type", "param", "code"}
            and fields["content-type"] == "application/json",
            error.get("message", answer),
        )
    too_long = ask(http, "POST", COMPLETIONS, {"prompt": [1] * 4096})[2]["error"]
    checks.expect(
        "too long, with numbers",
        too_long["code"] == "context_length_exceeded" and "4096" in too_long["message"],
        too_long,
    )
    with Talk(http) as talk:
        talk.send(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}"
        )
        checks.expect("415 without the JSON type", talk.answer()[0] == 415, "text/plain")
    with Talk(http) as talk:
        talk.send(request_bytes("OPTIONS", CHAT, fields=["Origin: http://evil.example"]))
        status, fields, _ = talk.answer()
        checks.expect(
            "other origins are not let in", status == 204 and "access-control-allow-origin" not in fields, fields
        )
    with Talk(http) as talk:
        talk.send(request_bytes("HEAD", "/v1/models") + request_bytes("GET", "/health"))
        head, health = talk.answer(head_only=True), talk.answer()
        checks.expect(
            "HEAD, and the next request behind it", int(head[1]["content-length"]) > 0 and health[0] == 200, head[1]
        )


def test_bad_clients(checks, http):
    for name, data, expected in [
        ("garbage", b"\x00\xff\r\n\r\n", b"HTTP/1.1 400"),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"HTTP/1.1 400"),
        ("long head", b"GET /health HTTP/1.1\r\nX: " + b"a" * 20000 + b"\r\n\r\n", b"HTTP/1.1 431"),
        (
            "broken JSON",
            b"POST /v1/completions HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
            b'Content-Length: 3\r\n\r\n{"a',
            b"HTTP/1.1 400",
        ),
        (
            "body announced too large",
            b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999\r\n\r\n",
            b"HTTP/1.1 413",
        ),
    ]:
        with Talk(http) as talk:
            talk.send(data)
            answer = talk.read_to_end()
            checks.expect(name, answer.startswith(expected) and b'"error"' in answer, answer[:40])
    with Talk(http) as talk:  # sends 17 MiB although nobody wants them
        talk.send(
            b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        try:
            for _ in range(17):
                talk.send(b"100000\r\n" + b"a" * (1 << 20) + b"\r\n")
        except OSError:
            pass
        answer = talk.read_to_end()
        checks.expect("body too large", answer.startswith(b"HTTP/1.1 413"), answer[:40])
    with Talk(http) as talk:
        talk.send(request_bytes("GET", "/health"))
        talk.socket.shutdown(1)
        checks.expect("half-closed, quick answer", talk.answer()[0] == 200, "200")
    with Talk(http) as talk:
        talk.send(b"POST /v1/compl")
    checks.expect("still well", ask(http, "GET", "/health")[0] == 200, "after all that")


def test_completions(checks, http):
    plain = completion(http, prompt="Which city", max_tokens=5, temperature=0)
    checks.expect(
        "shape",
        plain["object"] == "text_completion"
        and plain["id"].startswith("cmpl-")
        and isinstance(plain["created"], int)
        and plain["system_fingerprint"].startswith("fp_"),
        plain["id"],
    )
    usage = plain["usage"]
    checks.expect(
        "usage", usage["completion_tokens"] == 5 and usage["total_tokens"] == usage["prompt_tokens"] + 5, usage
    )
    checks.expect(
        "default of max_tokens",
        completion(http, prompt="The", ignore_eos=True)["usage"]["completion_tokens"] == 16,
        16,
    )
    echo = completion(http, prompt="Which city", max_tokens=0, echo=True, logprobs=2)["choices"][0]
    checks.expect(
        "max_tokens 0 with echo", echo["text"] == "Which city" and echo["finish_reason"] == "length", echo["text"]
    )
    stopped = completion(
        http, prompt="Which city", max_tokens=5, temperature=0, stop=[plain["choices"][0]["text"][2:4]]
    )["choices"][0]
    checks.expect(
        "stop string",
        stopped["text"] == plain["choices"][0]["text"][:2] and stopped["finish_reason"] == "stop",
        stopped["text"],
    )
    same = completion(http, prompt="Which city", n=3, seed=5, max_tokens=8, temperature=1)["choices"]
    again = completion(http, prompt="Which city", n=3, seed=5, max_tokens=8, temperature=1)["choices"]
    checks.expect(
        "n answers, repeatable", same == again and len({c["text"] for c in same}) > 1, [c["text"] for c in same]
    )
    drawn = {completion(http, prompt="The", max_tokens=8)["choices"][0]["text"] for _ in range(4)}
    checks.expect("greedy where generation_config.json says so", len(drawn) == 1, drawn)
    free = completion(http, prompt=["The"] * 4, max_tokens=8, temperature=1)["choices"]
    checks.expect("without a seed answers differ", len({c["text"] for c in free}) > 1, [c["text"] for c in free])
    biased = completion(http, prompt="The", max_tokens=3, logit_bias={"303": 100}, temperature=0)["choices"][0][
        "text"
    ]
    checks.expect(
        "logit_bias", biased == ask(http, "POST", "/detokenize", {"tokens": [303] * 3})[2]["prompt"], biased
    )


def test_logprobs(checks, http):
    ids = ask(http, "POST", "/tokenize", {"prompt": "Which city is the capital of France? ĉ€😀"})[2]["tokens"]
    choice = completion(http, prompt=ids, max_tokens=1, echo=True, logprobs=1, temperature=0)["choices"][0]
    logprobs = choice["logprobs"]
    lengths = {name: len(values) for name, values in logprobs.items()}
    checks.expect("prompt + 1 entries", set(lengths.values()) == {len(ids) + 1} and len(lengths) == 4, lengths)
    checks.expect(
        "the first has none", logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None, None
    )
    checks.expect(
        "the chosen one is among the top ones, exactly",
        all(
            value <= max(top.values()) and value in top.values()
            for value, top in zip(logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:])
        ),
        "all positions",
    )
    offsets = logprobs["text_offset"]
    whole = [(t, o) for t, o in zip(logprobs["tokens"], offsets) if not t.startswith("bytes:")][:-1]
    checks.expect(
        "offsets point to the tokens", all(choice["text"].startswith(t, o) for t, o in whole), choice["text"]
    )
    batch = [ids, ids[:5], ids[2:]]
    together = completion(http, prompt=batch, max_tokens=1, echo=True, logprobs=1, temperature=0)["choices"]
    alone = [
        completion(http, prompt=[p], max_tokens=1, echo=True, logprobs=1, temperature=0)["choices"][0]
        for p in batch
    ]
    checks.expect(
        "a batch is its prompts, bit for bit",
        [c["index"] for c in together] == [0, 1, 2] and [{**c, "index": 0} for c in together] == alone,
        f"{len(batch)} prompts",
    )
    text = completion(http, prompt="Which city", max_tokens=0, echo=True, logprobs=0)["choices"][0]["logprobs"]
    bos_ids = ask(http, "POST", "/tokenize", {"prompt": "Which city"})[2]["tokens"]
    same = completion(http, prompt=bos_ids, max_tokens=0, echo=True, logprobs=0)["choices"][0]["logprobs"]
    checks.expect("text is its token ids", text["token_logprobs"] == same["token_logprobs"], text["tokens"])
    chat = ask(http, "POST", CHAT, {"messages": QUESTION, "max_tokens": 3, "logprobs": True, "top_logprobs": 2})[2]
    entries = chat["choices"][0]["logprobs"]["content"]
    checks.expect(
        "chat logprobs",
        len(entries) == chat["usage"]["completion_tokens"]
        and all(len(e["top_logprobs"]) == 2 and bytes(e["bytes"]).decode() == e["token"] for e in entries),
        entries[0]["token"],
    )


def streamed(http, path, body):
    with Talk(http) as talk:
        talk.send(request_bytes("POST", path, {**body, "stream": True}))
        head = talk.read_until(b"\r\n\r\n")
        assert b" 200 " in head and b"text/event-stream" in head, head
        return list(events(talk))


def test_streams(checks, http):
    body = {"messages": QUESTION, "max_tokens": 20, "temperature": 0}
    whole = ask(http, "POST", CHAT, body)[2]["choices"][0]
    parts = streamed(http, CHAT, body)
    checks.expect("ends with [DONE]", parts[-1] is None and None not in parts[:-1], len(parts))
    choices = [p["choices"][0] for p in parts[:-1]]
    text = "".join(c["delta"].get("content", "") for c in choices)
    checks.expect("parts make the whole", text == whole["message"]["content"], text)
    checks.expect(
        "role first, reason last",
        choices[0]["delta"]["role"] == "assistant"
        and choices[-1]["delta"] == {}
        and choices[-1]["finish_reason"] == whole["finish_reason"]
        and all(c["finish_reason"] is None for c in choices[:-1]),
        choices[-1],
    )
    checks.expect("usage only where asked", not any("usage" in p for p in parts[:-1]), "absent")
    counted = streamed(http, CHAT, {**body, "stream_options": {"include_usage": True}})
    checks.expect(
        "usage, once, without choices",
        counted[-2]["choices"] == []
        and counted[-2]["usage"]["total_tokens"] > 0
        and all(p["usage"] is None for p in counted[:-2]),
        counted[-2],
    )
    many = {
        "prompt": ["The", "A"],
        "n": 2,
        "seed": 3,
        "temperature": 1,
        "max_tokens": 12,
        "logprobs": 1,
        "echo": True,
    }
    texts, logprobs = {}, {}
    for part in streamed(http, COMPLETIONS, many)[:-1]:
        choice = part["choices"][0]
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
        logprobs.setdefault(choice["index"], []).extend(choice["logprobs"]["token_logprobs"])
    expected = completion(http, **many)["choices"]
    checks.expect("four answers in one stream", texts == {c["index"]: c["text"] for c in expected}, texts)
    checks.expect(
        "with their logprobs",
        logprobs == {c["index"]: c["logprobs"]["token_logprobs"] for c in expected},
        {i: len(values) for i, values in logprobs.items()},
    )


def test_leaving(checks, cluster, http):
    running, failed = "tandem_num_requests_running", 'tandem_request_failure_total{code="CANCELLED"}'
    pages = "tandem_kv_cache_usage_perc"
    for name, body in [
        ("a stream", {**LONG, "stream": True}),
        ("a whole answer", LONG),
        ("a batch", {**LONG, "prompt": ["The"] * 3, "stream": True}),
    ]:
        before = metric(cluster, failed)
        with Talk(http) as talk:
            talk.send(request_bytes("POST", COMPLETIONS, body))
            if body.get("stream"):
                talk.read_until(b"data: ")
            began = eventually(lambda: metric(cluster, running) >= 1)
        left = time.monotonic()
        freed = eventually(lambda: metric(cluster, running) == 0 and metric(cluster, pages) == 0)
        count = metric(cluster, failed) - before
        checks.expect(
            f"leaving {name} frees it",
            began and freed and count == len(body["prompt"] if isinstance(body["prompt"], list) else [1]),
            f"{time.monotonic() - left:.2f} s, {count:.0f} cancelled",
        )
    with Talk(http) as talk:
        talk.send(request_bytes("POST", COMPLETIONS, LONG))
        eventually(lambda: metric(cluster, running) == 1)
        talk.socket.shutdown(1)
        checks.expect("half-closed means left", eventually(lambda: metric(cluster, running) == 0), "freed")


def test_crowd(checks, http):
    """Every streamed answer equals the one that is asked for alone and whole."""
    bodies = [
        {"prompt": f"Question {i}:", "seed": i, "temperature": 1, "max_tokens": 16, "ignore_eos": True}
        for i in range(CROWD)
    ]

    def stream(body):
        return "".join(p["choices"][0]["text"] for p in streamed(http, COMPLETIONS, body)[:-1])

    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(CROWD) as pool:
        together = list(pool.map(stream, bodies))
    seconds = time.monotonic() - start
    alone = [completion(http, **body)["choices"][0]["text"] for body in bodies]
    checks.expect(f"{CROWD} streams at once", together == alone, f"{seconds:.1f} s")


def damaged(request, random):
    """The bytes of a request with a few changed, added or missing."""
    data = bytearray(request)
    for _ in range(random.randint(0, 6)):
        at, kind = random.randrange(len(data) + 1), random.random()
        if kind < 0.4 and at < len(data):
            data[at] = random.randrange(256)
        elif kind < 0.7:
            data[at:at] = bytes(random.choices(b'\r\n:{}[]",019aH \xff\x00', k=random.randint(1, 6)))
        else:
            del data[at : at + random.randint(1, 10)]
    return bytes(data)


def send_noise(http, seed, count):
    random = Random(seed)
    requests = [
        request_bytes("POST", COMPLETIONS, {"prompt": [[1, 2], [3]], "max_tokens": 2, "echo": True, "logprobs": 2}),
        request_bytes("POST", CHAT, {"messages": QUESTION, "max_tokens": 3, "stream": True}),
        request_bytes("GET", "/v1/models") + request_bytes("GET", "/health"),
    ]
    for _ in range(count):
        data = damaged(random.choice(requests), random)
        cut = random.randrange(len(data) + 1)
        try:
            with Talk(http) as talk:
                talk.send(data[:cut])
                if random.random() < 0.7:
                    talk.send(data[cut:])
                    talk.socket.settimeout(random.choice([0.01, 0.1]))
                    talk.read_to_end()
        except OSError:  # closed or silent: both are fine
            pass


def test_noise(checks, cluster, http):
    """Damaged requests, cut anywhere, from clients that leave at any moment: nothing of them stays."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: send_noise(http, seed, 100), range(8)))
    checks.expect("after noise it is well", ask(http, "GET", "/health")[0] == 200, "800 requests")
    for sample in ("tandem_num_requests_running", "tandem_http_connections"):
        checks.expect(f"{sample} is back at 0", eventually(lambda: metric(cluster, sample) == 0), sample)


def test_slow_readers(checks, cluster, http):
    """Streams that nobody reads, with so many log probabilities that they fill every buffer, hold up nobody else."""
    body = {**LONG, "stream": True, "logprobs": 100}
    talks = [Talk(http) for _ in range(4)]
    for talk in talks:
        talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        talk.send(request_bytes("POST", COMPLETIONS, body))
    eventually(lambda: metric(cluster, "tandem_num_requests_running") == len(talks))
    time.sleep(1)
    start = time.monotonic()
    answer = completion(http, prompt="Which city", max_tokens=5, temperature=0)
    seconds = time.monotonic() - start
    checks.expect(
        "slow readers hold up nobody", answer["usage"]["completion_tokens"] == 5 and seconds < 5, f"{seconds:.2f} s"
    )
    for talk in talks:
        talk.close()
    freed = eventually(lambda: metric(cluster, "tandem_num_requests_running") == 0)
    checks.expect("and are freed when they leave", freed, len(talks))


def test_launcher(checks):
    """What `tandem up` tells its command, and what it says about a port in use."""
    script = 'echo "$TANDEM_HTTP_ADDRESS"'
    command = [PROGRAMS / "tandem", "up", "--model", MODEL, "--", "/bin/sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    address = done.stdout.strip()
    checks.expect("the command knows the address", address.startswith("127.0.0.1:"), address)
    checks.expect("it is shown", f"http://{address}/v1" in done.stderr, done.stderr.strip()[-200:])
    off = subprocess.run(
        [*command[:4], "--http-listen", "none", *command[4:]], capture_output=True, text=True, timeout=120
    )
    checks.expect("without HTTP", off.returncode == 0 and off.stdout.strip() == "", off.stdout)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        coordinator = [PROGRAMS / "tandem-coordinator", "--model", MODEL, "--listen", "127.0.0.1:0"]
        done = subprocess.run([*coordinator, "--http-listen", address], capture_output=True, text=True, timeout=60)
        last = done.stderr.strip().splitlines()[-1]
        checks.expect("a port in use", done.returncode == 2 and address in last, last)


def test_keys_and_limits(checks):
    environment = {"TANDEM_API_KEY": "secret", "TANDEM_QUEUE_MAX": "2", "TANDEM_HTTP_CORS_ORIGIN": "*"}
    os.environ.update(environment)
    try:
        with Cluster(MODEL, 1) as cluster:
            http, key = cluster.state["http_address"], ["Authorization: Bearer secret"]
            for name, fields in [("no key", []), ("a wrong key", ["Authorization: Bearer secre"])]:
                status, _, body = ask(http, "GET", "/v1/models", fields=fields)
                checks.expect(name, status == 401 and body["error"]["code"] == "invalid_api_key", body)
            checks.expect("the key", ask(http, "GET", "/v1/models", fields=key)[0] == 200, 200)
            checks.expect("health needs none", ask(http, "GET", "/health")[0] == 200, 200)
            _, fields, _ = ask(http, "GET", "/health", fields=["Origin: http://page.example"])
            checks.expect(
                "CORS where asked for", fields.get("access-control-allow-origin") == "http://page.example", fields
            )
            status, fields, body = ask(http, "POST", COMPLETIONS, {"prompt": ["a"] * 3}, key)
            checks.expect(
                "queue full",
                status == 429 and fields["retry-after"] == "1" and body["error"]["type"] == "rate_limit_error",
                body,
            )
            # The two that were let in are cancelled with the third, but not in the same instant.
            small = {"prompt": "a", "max_tokens": 1}
            let_in = eventually(lambda: ask(http, "POST", COMPLETIONS, small, key)[0] == 200)
            checks.expect("the queue empties", let_in, "")
            test_drain(checks, cluster, http, key)
    finally:
        for name in environment:
            del os.environ[name]


def test_drain(checks, cluster, http, key):
    """A stream that runs when the end is asked for is finished."""
    body = {**LONG, "max_tokens": 200, "stream": True}
    with Talk(http) as talk:
        talk.send(request_bytes("POST", COMPLETIONS, body, key))
        talk.read_until(b"\r\n\r\n")
        cluster.launcher.send_signal(signal.SIGTERM)
        parts = list(events(talk))
    checks.expect(
        "SIGTERM lets a stream finish",
        parts[-1] is None and parts[-2]["choices"][0]["finish_reason"] == "length",
        len(parts),
    )
    checks.expect("and then the cluster ends", cluster.launcher.wait(timeout=30) == 0, 0)


def test_not_ready(checks):
    """A coordinator alone: the model is known, but nobody computes."""
    log = subprocess.PIPE
    program = subprocess.Popen(
        [
            PROGRAMS / "tandem-coordinator",
            "--model",
            MODEL,
            "--listen",
            "127.0.0.1:0",
            "--http-listen",
            "127.0.0.1:0",
        ],
        stderr=log,
        text=True,
    )
    try:
        line = next(line for line in program.stderr if "coordinator_serving" in line)
        http = next(word[len("http=") :] for word in line.split() if word.startswith("http="))
        status, fields, body = ask(http, "GET", "/health")
        checks.expect(
            "health while loading",
            status == 503 and body["error"]["type"] == "unavailable_error" and body["error"]["code"] == 503,
            body,
        )
        status, fields, body = ask(http, "POST", COMPLETIONS, {"prompt": "a"})
        checks.expect("503 with Retry-After", status == 503 and "retry-after" in fields, body)
        checks.expect("models are listed", ask(http, "GET", "/v1/models")[0] == 200, 200)
    finally:
        program.send_signal(signal.SIGTERM)
        checks.expect("it ends", program.wait(timeout=20) == 0, 0)


def main():
    missing = [
        p
        for p in ("tandem", "tandem-coordinator", "tandem-gpu-worker", "tandem-cpu-worker")
        if not (PROGRAMS / p).exists()
    ]
    if missing:
        print("SKIPPED: not built:", ", ".join(missing))
        sys.exit(77)
    checks = Checks()
    with Cluster(MODEL, 2) as cluster:
        http = cluster.state["http_address"]
        for test in (
            test_small_endpoints,
            test_errors,
            test_bad_clients,
            test_completions,
            test_logprobs,
            test_streams,
            test_crowd,
        ):
            with checks.guarded(test.__name__):
                test(checks, http)
        with checks.guarded("noise"):
            test_noise(checks, cluster, http)
        with checks.guarded("slow readers"):
            test_slow_readers(checks, cluster, http)
        with checks.guarded("leaving"):
            test_leaving(checks, cluster, http)
    with checks.guarded("keys and limits"):
        test_keys_and_limits(checks)
    with checks.guarded("not ready"):
        test_not_ready(checks)
    with checks.guarded("launcher"):
        test_launcher(checks)
    sys.exit(checks.exit_code())


if __name__ == "__main__":
    main()
