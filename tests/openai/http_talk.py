"""HTTP with nothing but sockets, so that tests can also misbehave. Shared by the scripts of this folder."""

import json
import pathlib
import socket
import sys
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "live/support"))
import live_support  # noqa: E402

ROOT = live_support.ROOT
MODEL = ROOT / "models/quiz"
WAIT_S_MAX = 60


class Talk:
    """One connection to host:port."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=WAIT_S_MAX)
        self.rest = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def read_until(self, end):
        while end not in self.rest:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError(f"closed after {self.rest[-300:]!r}")
            self.rest += data
        found, self.rest = self.rest.split(end, 1)
        return found + end

    def read_to_end(self):
        while data := self.socket.recv(65536):
            self.rest += data
        return self.rest

    def read_exactly(self, count):
        while len(self.rest) < count:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("closed in the middle of a body")
            self.rest += data
        found, self.rest = self.rest[:count], self.rest[count:]
        return found

    def chunks(self):
        """The pieces of a chunked body, as they come."""
        while True:
            size = int(self.read_until(b"\r\n"), 16)
            piece = self.read_exactly(size + 2)[:-2]
            if size == 0:
                return
            yield piece

    def answer(self, head_only=False):
        """(status, {field: value}, body) of the next answer."""
        lines = self.read_until(b"\r\n\r\n").decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        if head_only or lines[0].split()[1] == "204":
            body = b""
        elif fields.get("transfer-encoding") == "chunked":
            body = b"".join(self.chunks())
        else:
            body = self.read_exactly(int(fields["content-length"]))
        return int(lines[0].split()[1]), fields, body


def request_bytes(method, path, body=None, fields=()):
    data = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: tandem"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join([*lines, *fields, "", ""]).encode() + data


def ask(address, method, path, body=None, fields=()):
    """(status, fields, JSON) of one request on a connection of its own."""
    with Talk(address) as talk:
        talk.send(request_bytes(method, path, body, fields))
        status, answered, data = talk.answer()
        return status, answered, json.loads(data) if data else None


def events(talk):
    """The data of a stream's events after its head, [DONE] as None."""
    text = b""
    for piece in talk.chunks():
        text += piece
        while b"\n\n" in text:
            event, text = text.split(b"\n\n", 1)
            if event.startswith(b"data: "):
                data = event[len(b"data: ") :]
                yield None if data == b"[DONE]" else json.loads(data)


def metric(cluster, sample):
    """A sample of the coordinator's /metrics; 0 when it is not there yet."""
    admin = next(p["admin"] for p in cluster.state["processes"] if p["role"] == "coordinator")
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(sample + " "):
                return float(line.rsplit(" ", 1)[1])
    return 0.0


def eventually(condition, wait_s_max=20):
    end = time.monotonic() + wait_s_max
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False
