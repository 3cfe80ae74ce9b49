"""A Tandem cluster on this machine, started by `tandem up`."""

import json
import signal
import subprocess
import tempfile
import time
import pathlib

from tandem_bench.problem import Problem

READY_S_MAX = 600
STOP_S_MAX = 60


class LocalCluster:
    """Coordinator, GPU worker on the host backend and one CPU worker; both workers with `threads` threads, since they
    take turns inside a token."""

    def __init__(self, tandem, model, threads, flags=()):
        self.folder = tempfile.TemporaryDirectory(prefix="tandem-bench-")
        self.state_path = pathlib.Path(self.folder.name) / "state.json"
        self.log_path = pathlib.Path(self.folder.name) / "up.log"
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(
                [tandem, "up", "--model", model, "--cpu-workers", "1", "--cpu-threads", str(threads), "--gpu-threads",
                 str(threads), "--backend", "host", "--no-restart", "--state-file", self.state_path,
                 "--wait-ready-seconds", str(READY_S_MAX), *flags],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.state = self._wait_ready()

    def _read_state(self):
        try:
            return json.loads(self.state_path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def _wait_ready(self):
        end = time.monotonic() + READY_S_MAX
        while time.monotonic() < end and self.process.poll() is None:
            state = self._read_state()
            if state.get("ready"):
                return state
            time.sleep(0.1)
        complaint = self.log_path.read_text(errors="replace").strip().splitlines()
        self.stop()
        raise Problem(f"tandem up did not get ready: {complaint[-1] if complaint else 'it said nothing'}")

    @property
    def address(self):
        return self.state["address"]

    def pids(self):
        return [self.process.pid] + [process["pid"] for process in self.state["processes"]]

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.folder.cleanup()
