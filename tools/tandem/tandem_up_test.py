"""`tandem up` as its users meet it: exit codes, one sentence when it cannot start, restarts, no process left behind.

Needs the programs beside `tandem`; skips when one is missing. The model is models/quiz, or $TANDEM_QUIZ_MODEL.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

BINARIES = pathlib.Path(os.environ.get("TANDEM_BINARY_DIR", "build")) / "bin"
SOURCE = pathlib.Path(os.environ.get("TANDEM_SOURCE_DIR", "."))
READY_SECONDS_MAX = 120


def skip(reason):
    print("SKIPPED:", reason)
    sys.exit(77)


def quiz_model():
    model = pathlib.Path(os.environ.get("TANDEM_QUIZ_MODEL", SOURCE / "models/quiz"))
    if not model.exists():
        raise SystemExit(f"expected the quiz model at {model}, found nothing")
    return model


def check(condition, what):
    print(("ok    " if condition else "WRONG ") + what)
    if not condition:
        check.failures += 1


check.failures = 0


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds_max):
    end = time.monotonic() + seconds_max
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    return None


class Cluster:
    def __init__(self, model, folder, *flags):
        self.state_path = pathlib.Path(folder) / "state.json"
        self.log = open(pathlib.Path(folder) / "up.log", "w+")
        self.process = subprocess.Popen(
            [BINARIES / "tandem", "up", "--model", model, "--cpu-workers", "2", "--state-file", self.state_path,
             "--wait-ready-seconds", str(READY_SECONDS_MAX), *flags],
            stdout=self.log, stderr=self.log, start_new_session=True)

    def state(self):
        try:
            return json.loads(self.state_path.read_text())
        except FileNotFoundError:
            return {}

    def wait_ready(self):
        ready = wait_for(lambda: self.process.poll() is not None or self.state().get("ready"), READY_SECONDS_MAX)
        if not ready or self.process.poll() is not None:
            self.log.seek(0)
            raise SystemExit("not ready: " + self.log.read())
        return self.state()


def pids(state):
    return [p["pid"] for p in state["processes"]]


def test_port_conflicts(model):
    """Each program says it in one sentence and exits 2."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        commands = {
            "tandem-coordinator": ["--listen", address],
            "tandem-cpu-worker": ["--coordinator", "127.0.0.1:1", "--listen", address],
            "tandem-gpu-worker": ["--coordinator", "127.0.0.1:1", "--listen", address],
        }
        for program, flags in commands.items():
            done = subprocess.run([BINARIES / program, "--model", model, *flags], capture_output=True, text=True,
                                  timeout=60)
            check(done.returncode == 2, f"{program} exits 2 on a port in use, found {done.returncode}")
            lines = [line for line in done.stderr.splitlines() if " INFO " not in line and " WARNING " not in line]
            check(len(lines) == 1 and address in lines[0], f"{program} says it in one sentence: {lines}")
        done = subprocess.run([BINARIES / "tandem", "up", "--model", model, "--listen", address], capture_output=True,
                              text=True, timeout=60)
        check(done.returncode == 2 and address in done.stderr, f"tandem up exits 2: {done.stderr.strip()[-200:]}")


def test_wrong_use():
    for args in ([], ["dance"], ["up"], ["up", "--model", "/no/such/model"], ["up", "--model", "x", "--no-such-flag"]):
        done = subprocess.run([BINARIES / "tandem", *args], capture_output=True, text=True, timeout=60)
        check(done.returncode == 2, f"tandem {args} exits 2, found {done.returncode}")
        check(done.stderr.startswith("tandem"), f"and says: {done.stderr.strip()[-160:]}")


def test_another_gpu_worker(model):
    """A wrapper in the GPU worker's place, and one that is not there."""
    with tempfile.TemporaryDirectory(prefix="tandem_up_test_") as folder:
        wrapper, trace = pathlib.Path(folder) / "wrapper.sh", pathlib.Path(folder) / "trace.json"
        wrapper.write_text(f"#!/bin/sh\ntouch {folder}/wrapped\nexec {BINARIES}/tandem-gpu-worker \"$@\"\n")
        wrapper.chmod(0o755)
        command = [BINARIES / "tandem", "up", "--model", model, "--gpu-worker-program"]
        done = subprocess.run([*command, wrapper, "--trace", trace, "--", "/bin/true"], capture_output=True, text=True,
                              timeout=READY_SECONDS_MAX + 30)
        check(done.returncode == 0 and (pathlib.Path(folder) / "wrapped").exists(), "a wrapper is started instead")
        check("process_name" in trace.read_text(), "and gets the GPU worker's flags")
        done = subprocess.run([*command, "/no/such/program"], capture_output=True, text=True, timeout=60)
        check(done.returncode == 2 and "/no/such/program" in done.stderr, f"else it exits 2: {done.stderr[-160:]}")


def test_command(model):
    script = 'echo "address $TANDEM_ADDRESS"; exit 7'
    done = subprocess.run([BINARIES / "tandem", "up", "--model", model, "--cpu-workers", "1", "--", "/bin/sh", "-c",
                           script], capture_output=True, text=True, timeout=READY_SECONDS_MAX + 30)
    check(done.returncode == 7, f"the command's exit code comes back, found {done.returncode}: {done.stderr[-300:]}")
    check(done.stdout.startswith("address 127.0.0.1:"), f"the command knows the address: {done.stdout.strip()}")


def interrupt(model, script):
    """SIGINT to the whole group, as a terminal sends it. Returns exit code, output and seconds it took."""
    with tempfile.TemporaryFile("w+") as output:
        launcher = subprocess.Popen([BINARIES / "tandem", "up", "--model", model, "--cpu-workers", "1", "--",
                                     "/bin/sh", "-c", script], stdout=output, stderr=subprocess.DEVNULL, text=True,
                                    start_new_session=True)

        def written():
            output.seek(0)
            return output.read()

        try:
            started = wait_for(lambda: launcher.poll() is not None or "started" in written(), READY_SECONDS_MAX)
            check(bool(started) and launcher.poll() is None, "the command runs")
            begin = time.monotonic()
            os.killpg(launcher.pid, signal.SIGINT)
            code = launcher.wait(timeout=60)
            return code, written(), time.monotonic() - begin
        finally:
            launcher.kill()


def test_interrupted_command(model):
    loop = "echo started; while :; do sleep 0.1; done"
    code, text, _ = interrupt(model, "trap 'sleep 1; echo how to resume; exit 5' INT; trap 'echo killed; exit 6' TERM; "
                              + loop)
    check(code == 130, f"Ctrl-C ends it with 130, found {code}")
    check("how to resume" in text and "killed" not in text, f"and the command ends in its own way: {text.split()}")
    code, text, seconds = interrupt(model, "trap '' INT; trap 'echo killed; exit 6' TERM; " + loop)
    check(code == 130 and "killed" in text, f"a command that ignores it gets SIGTERM: {code} {text.split()}")
    check(10 <= seconds < 20, f"after ten seconds, found {seconds:.1f}")


def test_restart_and_stop(model):
    with tempfile.TemporaryDirectory(prefix="tandem_up_test_") as folder:
        cluster = Cluster(model, folder)
        try:
            state = cluster.wait_ready()
            first = pids(state)
            check(len(first) == 4 and all(alive(pid) for pid in first), "four processes run")
            victim = next(p for p in state["processes"] if p["name"] == "cpu-1")
            os.kill(victim["pid"], signal.SIGKILL)
            restarted = wait_for(lambda: next((p for p in cluster.state()["processes"]
                                               if p["name"] == "cpu-1" and p["restarts"] == 1), None), 20)
            check(bool(restarted), "a dead CPU worker is restarted")
            everyone = set(first) | set(pids(cluster.state()))
            cluster.process.send_signal(signal.SIGTERM)
            code = cluster.process.wait(timeout=40)
            check(code == 0, f"SIGTERM ends it with 0, found {code}")
            check(not any(alive(pid) for pid in everyone), "and leaves no process")
            check(not cluster.state_path.exists(), "and no state file")
        finally:
            cluster.process.kill()


def test_killed_launcher(model):
    with tempfile.TemporaryDirectory(prefix="tandem_up_test_") as folder:
        cluster = Cluster(model, folder, "--log-dir", folder)
        try:
            children = pids(cluster.wait_ready())
            cluster.process.kill()
            cluster.process.wait()
            gone = wait_for(lambda: not any(alive(pid) for pid in children), 10)
            check(bool(gone), "the children of a killed launcher die with it")
        finally:
            cluster.process.kill()


def main():
    with tempfile.TemporaryDirectory(prefix="tandem_up_test_") as folder:
        os.environ["TMPDIR"] = folder  # logs that are kept after a failure go with it
        run_all()


def run_all():
    missing = [p for p in ("tandem", "tandem-coordinator", "tandem-gpu-worker", "tandem-cpu-worker")
               if not (BINARIES / p).exists()]
    if missing:
        skip(f"not built: {', '.join(missing)}")
    test_wrong_use()
    model = quiz_model()
    test_port_conflicts(model)
    test_another_gpu_worker(model)
    test_command(model)
    test_interrupted_command(model)
    test_restart_and_stop(model)
    test_killed_launcher(model)
    sys.exit(1 if check.failures else 0)


if __name__ == "__main__":
    main()
