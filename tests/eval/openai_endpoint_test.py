#!/usr/bin/env python3
"""`tandem-eval run` against an OpenAI-compatible server that answers, refuses, hangs and limits as told."""

import collections
import http.server
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time
import unittest

PROGRAM = pathlib.Path(os.environ.get("TANDEM_BINARY_DIR", "build/release")) / "bin/tandem-eval"
QUESTIONS = 12


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = collections.Counter()  # by prompt
        self.times, self.keys, self.bodies = [], set(), []
        self.refuse = None   # (how often per prompt, code, headers, body)
        self.hang = threading.Event()
        self.hanging = False
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        pass  # clients that leave are part of the test

    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, code, value, headers=()):
        body = json.dumps(value).encode()
        self.send_response(code)
        for name, text in headers:
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply(200, {"data": [{"id": "first"}, {"id": "second"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with self.server.lock:
            self.server.asked[prompt] += 1
            count = self.server.asked[prompt]
            self.server.times.append(time.monotonic())
            self.server.keys.add(self.headers.get("Authorization"))
            self.server.bodies.append(body)
        if self.server.hanging:
            self.server.hang.wait(30)
        if self.server.refuse and count <= self.server.refuse[0]:
            _, code, headers, value = self.server.refuse
            return self.reply(code, value, headers)
        letter = "ABCD"[int(prompt.split("Number ")[1].split("?")[0]) % 4]
        top = [{"token": token, "logprob": -0.1 if token == letter else -4.0} for token in "ABCD"]
        self.reply(200, {
            "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": letter},
                         "logprobs": {"content": [{"token": letter, "logprob": -0.1, "top_logprobs": top}]}}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 1}})


class OpenAiEndpoint(unittest.TestCase):
    def setUp(self):
        self.server = Server()
        self.folder = tempfile.TemporaryDirectory(prefix="tandem_openai_")
        self.data = pathlib.Path(self.folder.name) / "quiz.jsonl"
        self.data.write_text("".join(json.dumps(
            {"id": f"q{i}", "subject": "s", "question": f"Number {i}?", "choices": ["w", "x", "y", "z"],
             "answer": i % 4}) + "\n" for i in range(QUESTIONS)))
        self.out = f"{self.folder.name}/run"

    def tearDown(self):
        self.server.hang.set()
        self.server.shutdown()
        self.server.server_close()
        self.folder.cleanup()

    def start(self, *more, **environment):
        command = [PROGRAM, "run", "--suite", "quiz", "--data", self.data, "--endpoint", self.server.url(),
                   "--out", self.out, "--json", *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={**os.environ, **environment})

    def run_to_end(self, *more, **environment):
        process = self.start(*more, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def records(self):
        return [json.loads(line) for line in pathlib.Path(f"{self.out}/journal.jsonl").read_text().splitlines()]

    def test_asks_and_scores(self):
        code, out, err = self.run_to_end(OPENAI_API_KEY="secret")
        self.assertEqual(code, 0, err)
        result = json.loads(out)
        self.assertEqual(result["total"]["correct"], QUESTIONS)
        self.assertEqual(result["manifest"]["model"]["name"], "first")
        self.assertEqual(self.server.keys, {"Bearer secret"})
        self.assertNotIn("secret", out + pathlib.Path(f"{self.out}/manifest.json").read_text())
        for record in self.records():
            best = max(range(4), key=record["letter_logprobs"].__getitem__)
            self.assertEqual("ABCD"[best], record["gold"])
        self.assertTrue(all(body["top_logprobs"] == 20 for body in self.server.bodies))

    def test_waits_as_long_as_a_busy_server_wants(self):
        self.server.refuse = (1, 429, [("Retry-After", "1.5")], {"error": {"message": "slow down"}})
        begun = time.monotonic()
        code, _, err = self.run_to_end("--concurrency", str(QUESTIONS))
        self.assertEqual(code, 0, err)
        self.assertGreaterEqual(time.monotonic() - begun, 1.5)
        self.assertEqual({record["attempts"] for record in self.records()}, {2})

    def test_a_refusal_is_not_repeated(self):
        self.server.refuse = (99, 400, [], {"error": {"message": "no such field"}})
        code, _, err = self.run_to_end("--concurrency", "8")
        self.assertEqual(code, 1, err)
        self.assertEqual(set(self.server.asked.values()), {1})
        self.assertIn("no such field", self.records()[0]["error"])

    def test_a_server_that_hangs_costs_a_deadline(self):
        self.server.hanging = True
        begun = time.monotonic()
        code, _, err = self.run_to_end("--question-timeout-seconds", "1", "--concurrency", str(QUESTIONS))
        self.assertEqual(code, 1, err)
        self.assertLess(time.monotonic() - begun, 20)
        self.assertEqual({record["code"] for record in self.records()}, {4})  # DEADLINE_EXCEEDED

    def test_interrupted_and_resumed(self):
        process = self.start("--concurrency", "1", "--requests-per-minute", "300")
        while sum(self.server.asked.values()) < 4:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130, err)
        done = {record["id"] for record in self.records() if record["code"] == 0}
        self.assertTrue(0 < len(done) < QUESTIONS)
        code, out, err = self.run_to_end("--resume")
        self.assertEqual(code, 0, err)
        self.assertEqual(json.loads(out)["total"]["correct"], QUESTIONS)
        answered = [record["id"] for record in self.records() if record["code"] == 0]
        self.assertEqual(len(answered), len(set(answered)))

    def test_keeps_to_the_rate(self):
        code, _, err = self.run_to_end("--concurrency", "8", "--requests-per-minute", "600")
        self.assertEqual(code, 0, err)
        times = sorted(self.server.times)
        # One every 100 ms; a turn may be used late, the next one is not earlier for it.
        self.assertGreaterEqual(times[-1] - times[0], (QUESTIONS - 1) * 0.1 * 0.9)

    def test_says_what_the_server_has(self):
        code, _, err = self.run_to_end("--model-name", "third", "--ready-wait-seconds", "0")
        self.assertEqual(code, 2)
        self.assertIn("first, second", err)


if __name__ == "__main__":
    unittest.main()
