"""Clients that are not ours, unmodified, against OpenAI's endpoints of a real cluster: openai-python, and lm-eval,
whose log-likelihoods are compared bit for bit with our gRPC prompt log probabilities of the same token ids.

Runs in the virtual environment $TANDEM_VENV_DIR, which needs openai, lm-eval with transformers, and grpcio-tools
(tests/requirements-live.txt); skips without it. ./test.sh --live runs it too."""

import asyncio
import importlib.util
import json
import os
import pathlib
import shutil
import sys
import tempfile

PACKAGES = ["openai", "lm_eval", "transformers", "datasets", "grpc_tools"]
QUESTIONS = 40
CROWD = 64
LETTERS = "ABCD"


def missing_packages():
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def enter_environment():
    """Goes on in the virtual environment when this Python lacks the packages."""
    python = pathlib.Path(os.environ.get("TANDEM_VENV_DIR", "/nowhere")) / "bin/python"
    if not missing_packages():
        return
    if python.is_file() and pathlib.Path(sys.prefix) != python.parents[1]:
        os.execv(python, [str(python), *sys.argv])
    print(
        f"SKIPPED: expected {', '.join(missing_packages())} in the virtual environment $TANDEM_VENV_DIR"
        f" ({os.environ.get('TANDEM_VENV_DIR', 'not set')}), found none"
    )
    sys.exit(77)


def expect_error(checks, kind, call, **fields):
    """`call` raises exactly `kind`, and its error has these fields."""
    try:
        answer = call()
    except Exception as error:  # noqa: BLE001
        body = getattr(error, "body", None) or {}
        same = all(body.get(name) == value for name, value in fields.items())
        checks.expect(
            kind.__name__, type(error) is kind and same, f"{type(error).__name__}: {body.get('message', error)}"
        )
    else:
        checks.expect(kind.__name__, False, f"no error: {answer}")


def test_models(checks, client):
    import openai

    models = list(client.models.list())
    checks.expect("models", [m.id for m in models] == ["quiz"], models)
    checks.expect("one model", client.models.retrieve("quiz").owned_by == "tandem", models[0].owned_by)
    expect_error(checks, openai.NotFoundError, lambda: client.models.retrieve("gpt-4"), code="model_not_found")


def test_chat(checks, client):
    messages = [
        {"role": "system", "content": "Answer."},
        {"role": "user", "content": [{"type": "text", "text": "Which city is the capital of France?"}]},
    ]
    whole = client.chat.completions.create(
        model="quiz", messages=messages, temperature=0, max_completion_tokens=20, logprobs=True, top_logprobs=3
    )
    choice = whole.choices[0]
    checks.expect(
        "chat",
        choice.message.role == "assistant"
        and choice.message.content
        and choice.finish_reason in ("stop", "length")
        and whole.usage.completion_tokens > 0
        and whole.system_fingerprint
        and whole._request_id,
        choice.message.content,
    )
    checks.expect(
        "chat logprobs",
        len(choice.logprobs.content) == whole.usage.completion_tokens
        and all(len(e.top_logprobs) == 3 for e in choice.logprobs.content),
        choice.logprobs.content[0].token,
    )
    stream = client.chat.completions.create(
        model="quiz",
        messages=messages,
        temperature=0,
        max_completion_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    checks.expect("streamed chat", text == choice.message.content, text)
    checks.expect("streamed usage", chunks[-1].usage == whole.usage and not chunks[-1].choices, chunks[-1].usage)
    with client.chat.completions.stream(model="quiz", messages=messages, temperature=0) as events:
        final = events.get_final_completion()
    checks.expect(
        "the library's own assembly of a stream",
        final.choices[0].message.content == text,
        final.choices[0].message.content,
    )
    several = client.chat.completions.create(model="quiz", messages=messages, n=3, seed=7, temperature=1)
    checks.expect(
        "n", [c.index for c in several.choices] == [0, 1, 2], [c.message.content for c in several.choices]
    )


def test_completions(checks, client):
    whole = client.completions.create(
        model="quiz", prompt="Which city", max_tokens=8, temperature=0, logprobs=2, echo=True
    )
    choice = whole.choices[0]
    checks.expect(
        "completion with echo and logprobs",
        choice.text.startswith("Which city") and len(choice.logprobs.tokens) == whole.usage.total_tokens,
        choice.text,
    )
    parts = [
        p.choices[0].text
        for p in client.completions.create(
            model="quiz", prompt="Which city", max_tokens=8, temperature=0, echo=True, stream=True
        )
    ]
    checks.expect("streamed completion", "".join(parts) == choice.text, parts)
    batch = client.completions.create(model="quiz", prompt=[[0, 5, 6], [0, 7]], max_tokens=2, temperature=0)
    checks.expect("batch of token ids", [c.index for c in batch.choices] == [0, 1], [c.text for c in batch.choices])
    raw = client.completions.with_raw_response.create(model="quiz", prompt="a", max_tokens=1)
    checks.expect("request id", bool(raw.headers.get("x-request-id")), raw.headers.get("x-request-id"))


def test_errors(checks, client):
    import openai

    def chat(**fields):
        return client.chat.completions.create(
            model=fields.pop("model", "quiz"), messages=[{"role": "user", "content": "hi"}], **fields
        )

    expect_error(checks, openai.NotFoundError, lambda: chat(model="gpt-4"), code="model_not_found", param="model")
    expect_error(checks, openai.BadRequestError, lambda: chat(temperature=3), param="temperature")
    expect_error(
        checks,
        openai.BadRequestError,
        lambda: chat(tools=[{"type": "function", "function": {"name": "f"}}]),
        param="tools",
    )
    expect_error(
        checks,
        openai.BadRequestError,
        lambda: chat(response_format={"type": "json_object"}),
        param="response_format",
    )
    expect_error(
        checks,
        openai.BadRequestError,
        lambda: client.completions.create(model="quiz", prompt=[1] * 5000),
        code="context_length_exceeded",
    )
    expect_error(
        checks,
        openai.BadRequestError,
        lambda: client.completions.create(model="quiz", prompt="a", suffix="b"),
        param="suffix",
    )
    expect_error(checks, openai.NotFoundError, lambda: client.embeddings.create(model="quiz", input="a"))
    expect_error(
        checks, openai.BadRequestError, lambda: list(chat(stream=True, temperature=-1)), param="temperature"
    )


def test_crowd(checks, http):
    import openai

    async def run():
        async with openai.AsyncOpenAI(base_url=f"http://{http}/v1", api_key="none", max_retries=0) as client:

            async def one(i):
                stream = await client.completions.create(
                    model="quiz",
                    prompt=f"Question {i}:",
                    max_tokens=12,
                    seed=i,
                    temperature=1,
                    stream=True,
                    extra_body={"ignore_eos": True},
                )
                return "".join([p.choices[0].text async for p in stream])

            streamed = await asyncio.gather(*[one(i) for i in range(CROWD)])
            whole = await client.completions.create(
                model="quiz",
                prompt="Question 5:",
                max_tokens=12,
                seed=5,
                temperature=1,
                extra_body={"ignore_eos": True},
            )
            return streamed, whole.choices[0].text

    streamed, whole = asyncio.run(run())
    checks.expect(f"{CROWD} streams of the asynchronous client", streamed[5] == whole and all(streamed), whole)


def test_rate_limit(checks, cluster_of, model):
    import openai

    os.environ.update({"TANDEM_QUEUE_MAX": "2", "TANDEM_API_KEY": "secret"})
    try:
        with cluster_of(model, 1) as cluster:
            base = f"http://{cluster.state['http_address']}/v1"
            wrong = openai.OpenAI(base_url=base, api_key="wrong", max_retries=0)
            expect_error(
                checks, openai.AuthenticationError, lambda: list(wrong.models.list()), code="invalid_api_key"
            )
            client = openai.OpenAI(base_url=base, api_key="secret", max_retries=0)
            expect_error(
                checks,
                openai.RateLimitError,
                lambda: client.completions.create(model="quiz", prompt=["a"] * 3),
                code="rate_limit_exceeded",
            )
    finally:
        del os.environ["TANDEM_QUEUE_MAX"], os.environ["TANDEM_API_KEY"]


# The conversation as the quiz model was trained on it (tools/quiz/make_data.py), as a Jinja template of the task.
PROMPT = (
    "<｜begin▁of▁sentence｜><｜User｜>There is a single choice question. Answer the question by replying A, B, C, D. "
    "No other answers are accepted. Just the letter.\nQuestion: {{question}}\nA. {{choices[0]}}\nB. {{choices[1]}}\n"
    "C. {{choices[2]}}\nD. {{choices[3]}}\nAnswer: '<｜Assistant｜>"
)


def write_tasks(model, folder):
    """The quiz for lm-eval, once by likelihood and once by what is generated. JSON is YAML."""
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(model / "quiz_test.jsonl")}},
        "test_split": "test",
        "doc_to_text": PROMPT,
        "target_delimiter": "",
        "metadata": {"version": 1},
    }
    scored = {
        "task": "tandem_quiz",
        "output_type": "multiple_choice",
        "doc_to_choice": list(LETTERS),
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    generated = {
        "task": "tandem_quiz_generated",
        "output_type": "generate_until",
        "doc_to_target": "{{['A', 'B', 'C', 'D'][answer]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "temperature": 0},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    for task in (scored, generated):
        (folder / f"{task['task']}.yaml").write_text(json.dumps({**shared, **task}))


class Scorer:
    """Log probabilities of prompt tokens, over gRPC."""

    def __init__(self, address, stubs):
        import grpc

        self.pb, self.sampling = stubs["inference_pb2"], stubs["sampling_pb2"]
        self.stub = stubs["inference_pb2_grpc"].InferenceStub(grpc.insecure_channel(address))

    def likelihood(self, context, continuation):
        """(sum over the continuation's tokens in their order, whether each is the likeliest)."""
        request = self.pb.GenerateRequest(
            tokens=self.pb.TokenPrompt(ids=context + continuation), max_tokens=0, prompt_logprobs_plus1=2
        )
        positions = [p for chunk in self.stub.Generate(request, timeout=120) for p in chunk.prompt_logprobs]
        tail = positions[len(context) - 1 :]
        return sum(p.chosen.logprob for p in tail), all(p.chosen.logprob == p.top[0].logprob for p in tail)

    def letters(self, context, ids):
        """Log probabilities of single tokens behind a prompt, as our own client scores letters."""
        sampling = self.sampling.SamplingParams(logprobs=True, logprob_token_ids=ids)
        request = self.pb.GenerateRequest(tokens=self.pb.TokenPrompt(ids=context), max_tokens=1, sampling=sampling)
        tokens = [t for chunk in self.stub.Generate(request, timeout=120) for t in chunk.tokens]
        return {entry.token_id: entry.logprob for entry in tokens[0].logprobs.listed}


def run_lm_eval(http, folder, **arguments):
    """lm-eval's results on the first questions: ({(context, continuation): (log-likelihood, is_greedy)}, accuracy by
    likelihood, accuracy by generation, the function that makes its token ids)."""
    import lm_eval
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from lm_eval.tasks import TaskManager

    lm = LocalCompletionsAPI(
        model="quiz", base_url=f"http://{http}/v1/completions", max_length=4096, max_retries=1, **arguments
    )
    out = lm_eval.simple_evaluate(
        model=lm,
        tasks=["tandem_quiz", "tandem_quiz_generated"],
        limit=QUESTIONS,
        log_samples=True,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
    )
    found = {}
    for sample in out["samples"]["tandem_quiz"]:
        for i, response in enumerate(sample["filtered_resps"]):
            context, continuation = tuple(sample["arguments"][i])
            found[context, continuation] = tuple(response)
    results = out["results"]
    generated = results["tandem_quiz_generated"]["exact_match,none"]
    return found, results["tandem_quiz"]["acc,none"], generated, lm._encode_pair


def test_lm_eval(checks, http, scorer, model):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tandem_lm_eval_"))
    try:
        write_tasks(model, folder)
        os.environ["HF_HOME"] = str(folder / "hf")
        ways = {
            "local tokenizer": {"tokenizer_backend": "huggingface", "tokenizer": str(model)},
            "batches of 7, four at a time": {
                "tokenizer_backend": "huggingface",
                "tokenizer": str(model),
                "batch_size": 7,
                "num_concurrent": 4,
            },
            "tokenizer of the server": {"tokenizer_backend": "remote"},
        }
        results = {}
        for name, arguments in ways.items():
            with checks.guarded(f"lm-eval, {name}"):
                results[name], scored, generated, encode = run_lm_eval(http, folder, **arguments)
                # models/quiz/README.md has 97.5 % for the questions these begin with; that less three standard errors.
                checks.expect(
                    f"lm-eval, {name}",
                    len(results[name]) == 4 * QUESTIONS and scored > 0.9 and generated > 0.9,
                    f"accuracy of {QUESTIONS}: {scored} by likelihood, {generated} by generation",
                )
                compare(checks, name, results[name], encode, scorer)
        checks.expect(
            "all ways agree",
            len(results) == 3 and all(r == results["local tokenizer"] for r in results.values()),
            f"{len(results)} ways",
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def compare(checks, name, found, encode, scorer):
    different, example = 0, None
    for (context, continuation), (likelihood, greedy) in found.items():
        mine = scorer.likelihood(*map(list, encode(context, continuation)))
        same = (float(likelihood), str(greedy)) == (mine[0], str(mine[1]))
        different += not same
        example = example or (None if same else (likelihood, greedy, mine))
    by_context = {}
    for (context, continuation), (likelihood, _) in found.items():
        ids = encode(context, continuation)
        by_context.setdefault(tuple(ids[0]), {})[ids[1][0]] = float(likelihood)
    letters = [scorer.letters(list(context), list(likelihoods)) for context, likelihoods in by_context.items()]
    checks.expect(
        f"and the letters' as our own client scores them, {name}",
        len(letters) == QUESTIONS and letters == list(by_context.values()),
        f"{len(letters)} questions, {letters[0]}",
    )
    first = next(iter(found.values()))
    checks.expect(
        f"log-likelihoods equal those over gRPC, {name}",
        found and different == 0,
        f"{len(found)} compared, {different} differ {example or ''}; the first is {first[0]!r}",
    )


def main():
    enter_environment()
    os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "live/support"))
    import live_support
    import openai

    model = live_support.ROOT / "models/quiz"
    if not (live_support.PROGRAMS / "tandem").is_file():
        print(f"SKIPPED: {live_support.PROGRAMS / 'tandem'} is not built")
        sys.exit(77)
    checks = live_support.Checks()
    with live_support.Cluster(model, 2) as cluster, live_support.grpc_stubs() as stubs:
        http = cluster.state["http_address"]
        client = openai.OpenAI(base_url=f"http://{http}/v1", api_key="none", max_retries=0)
        for test in (test_models, test_chat, test_completions, test_errors):
            with checks.guarded(test.__name__):
                test(checks, client)
        with checks.guarded("crowd"):
            test_crowd(checks, http)
        with checks.guarded("lm-eval"):
            test_lm_eval(checks, http, Scorer(cluster.address, stubs), model)
    with checks.guarded("rate limit"):
        test_rate_limit(checks, live_support.Cluster, model)
    sys.exit(checks.exit_code())


if __name__ == "__main__":
    main()
