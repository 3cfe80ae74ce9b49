"""An engine as a child process that answers one command at a time and is stopped in between.

Engines keep threads that spin for a while, some for good: SIGSTOP makes sure that the one that is asked has the machine
to itself.
"""

import ctypes
import json
import os
import re
import select
import signal
import subprocess
import tempfile
import time

from tandem_bench.machine import process_seconds

# glibc's allocator asks for huge pages too, so that engines that allocate for themselves get what Tandem takes.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
START_S_MAX = 600
SET_PDEATHSIG = 1  # prctl(2)
ANSWER_S_MAX = 300


def die_with_parent():
    """Runs in the child: a stopped process that nobody will ever continue would keep its gigabytes for good."""
    ctypes.CDLL(None).prctl(SET_PDEATHSIG, signal.SIGKILL)


class EngineFailed(Exception):
    """Why an engine has no figure: becomes the status of its rows."""


class EngineChild:
    """`label` names the engine and its form of weights; `command` starts it. EngineFailed when it does not come up."""

    def __init__(self, label, command, env=None):
        self.label = label
        self.buffer = b""
        self.complaints = tempfile.TemporaryFile()
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.complaints, preexec_fn=die_with_parent,
                                        env={**os.environ, **HUGE_PAGES, **(env or {})})
        self.hello = self._answer(START_S_MAX)
        if "unsupported" in self.hello:
            self.close()
            raise EngineFailed(f"unsupported: {self.hello['unsupported']}")
        self._signal(signal.SIGSTOP)

    def _signal(self, which):
        if self.process.poll() is None:
            self.process.send_signal(which)

    def _last_complaint(self):
        self.complaints.seek(0)
        lines = [line for line in self.complaints.read().decode(errors="replace").splitlines() if line.strip()]
        # Lines of a debugger's stack start with #.
        said = [line for line in lines if not line.startswith("#")]
        telling = [line for line in said if re.search(r"assert|abort|error|fail|cannot", line, re.I)]
        return (telling or lines or ["it said nothing"])[-1][-200:]

    def _fail(self, why):
        complaint = self._last_complaint()
        self.close()
        raise EngineFailed(f"failed: {why}; {complaint}")

    def _answer(self, seconds_max):
        end = time.monotonic() + seconds_max
        pipe = self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                self._fail(f"no answer within {seconds_max} s")
            chunk = os.read(pipe, 1 << 16)
            if not chunk:
                self._fail(f"ended with exit code {self.process.wait()}")
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)

    def ask(self, command):
        self._signal(signal.SIGCONT)
        try:
            self.process.stdin.write(command.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._fail(f"ended with exit code {self.process.wait()}")
        answer = self._answer(ANSWER_S_MAX)
        self._signal(signal.SIGSTOP)
        return answer

    def cpu_seconds(self):
        return process_seconds(self.process.pid) if self.process.poll() is None else 0.0

    def close(self):
        self._signal(signal.SIGKILL)  # stopped processes take no other; it has nothing to save
        self._signal(signal.SIGCONT)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                pass
        self.complaints.close()
