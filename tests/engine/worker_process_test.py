#!/usr/bin/env python3
"""tandem-gpu-worker as a process: it starts, says that it is ready, idles without burning a core, ends on SIGTERM with
exit code 0, and refuses what it cannot do in one sentence with exit code 2. No coordinator is needed for that."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(os.environ["TANDEM_SOURCE_DIR"])
BINARIES = pathlib.Path(os.environ["TANDEM_BINARY_DIR"])
PROGRAM = BINARIES / "bin" / "tandem-gpu-worker"
EMULATED = BINARIES / "tests" / "cluster" / "tandem-gpu-worker-emulated"  # its --backend cuda needs no GPU
MODEL = ROOT / "tests/golden/logits/v3"
START_SECONDS_MAX = 60
IDLE_SECONDS = 5
IDLE_SHARE_MAX = 0.01


def command(*extra, model=MODEL, program=PROGRAM):
    return [str(program), "--model", str(model), "--coordinator", "127.0.0.1:9", *extra]


def refuse(*extra, model=MODEL, program=PROGRAM, says):
    done = subprocess.run(command(*extra, model=model, program=program), capture_output=True, text=True,
                          timeout=START_SECONDS_MAX)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, f"exit code {done.returncode}, expected 2: {done.stderr}"
    assert says in last, f"expected {says!r} in {last!r}"


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_serving(process):
    """Reads the log until the worker serves; returns the admin port and the lines before."""
    lines = []
    for line in process.stderr:
        if "gpu_worker_serving" in line:
            return int(re.search(r"admin_port=(\d+)", line).group(1)), lines
        lines.append(line)
    raise AssertionError("the worker ended before it served")


def weight_bytes_of_ranks(lines):
    loaded = [re.search(r"rank_loaded .*rank=(\d+) .*weight_bytes=(\d+)", line) for line in lines]
    return {int(found[1]): int(found[2]) for found in loaded if found}


def serve_idle_and_stop(ranks):
    """Returns the bytes of weights that each rank says it holds."""
    flags = ("--threads", "2", "--kv-tokens", "1000", "--ranks", str(ranks))
    process = subprocess.Popen(command(*flags), stderr=subprocess.PIPE, text=True)
    try:
        port, lines = wait_until_serving(process)
        held = weight_bytes_of_ranks(lines)
        assert sorted(held) == list(range(ranks)), lines
        assert get(port, "/healthz")[0] == 200
        assert get(port, "/readyz")[0] == 200
        status, text = get(port, "/metrics")
        assert status == 200 and "tandem_engine_kv_pages 16" in text, text
        before = cpu_seconds(process.pid)
        time.sleep(IDLE_SECONDS)
        share = (cpu_seconds(process.pid) - before) / IDLE_SECONDS
        print(f"idle: {100 * share:.2f} % of a core")
        assert share <= IDLE_SHARE_MAX, f"an idle worker uses {100 * share:.1f} % of a core"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0, "SIGTERM did not end in exit code 0"
        assert "gpu_worker_stopped" in process.stderr.read()
        return held
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def log_of_start(*flags, program=PROGRAM):
    """What the worker says until it serves, that line included; then it is ended."""
    process = subprocess.Popen(command(*flags, program=program), stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "gpu_worker_serving" in line:
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=20) == 0
                return "".join(lines)
        raise AssertionError("the worker ended before it served: " + "".join(lines))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def hot_experts():
    """A recipe names them by a list beside it; flags win."""
    flags = ("--threads", "1", "--kv-tokens", "64")
    digest = re.search(r"model_opened .*digest=(\S+)", log_of_start(*flags)).group(1)
    with tempfile.TemporaryDirectory() as folder:
        recipe, lists = pathlib.Path(folder) / "r.yaml", pathlib.Path(folder) / "lists"
        lists.mkdir()
        recipe.write_text("name: hot\nhot_experts: lists/hot.json\n")
        by_recipe = (*flags, "--recipe", str(recipe))
        refuse(*by_recipe, says="lists/hot.json, found nothing")
        (lists / "hot.json").write_text(json.dumps({"model_digest": digest, "experts": {"1": [0, 5], "2": [3]}}))
        starts = [(log_of_start(*by_recipe), "processor")]
        if EMULATED.exists():
            on_device = (*by_recipe, "--backend", "cuda")
            starts.append((log_of_start(*on_device, program=EMULATED), "device"))
            refuse("--recipe", str(recipe), "--backend", "cuda", "--kv-tokens", str(1 << 32), program=EMULATED,
                   says="3 hot experts have taken")
        for log, place in starts:
            loaded = re.search(r"hot_experts_loaded .*experts=(\d+) .*computed_by=(\w+)", log)
            assert loaded.groups() == ("3", place), loaded.groups()
        other = lists / "other.json"
        other.write_text(json.dumps({"model_digest": digest, "experts": {"1": [0]}}))
        assert "experts=1 " in log_of_start(*by_recipe, "--hot-experts", str(other))
        assert "hot_experts=0" in log_of_start(*by_recipe, "--hot-experts", "none")
        refuse(*by_recipe, "--hot-experts-gib", "1e-7", says="the limit is")
        other.write_text(json.dumps({"model_digest": "another", "experts": {"1": [0]}}))
        refuse(*flags, "--hot-experts", str(other), says="another")


def main():
    if not PROGRAM.exists():
        print(f"skipped: {PROGRAM} is not built")
        return 77
    # Either the build has no CUDA or the machine no such GPU; both are said.
    refuse("--backend", "cuda", "--device", "1000", says="CUDA")
    refuse("--kernels", "hopper", says="--backend cuda")
    refuse("--attention", "quick", says="quick")
    refuse("--ranks", "3", says="divides 2 heads, found 3 ranks")
    refuse("--ranks", "2", "--backend", "cuda", "--device", "1000", says="CUDA")
    refuse(model="/nowhere", says="/nowhere")
    refuse("--listen", "0.0.0.0:0", says="--advertise")
    hot_experts()
    whole, parts = serve_idle_and_stop(ranks=1), serve_idle_and_stop(ranks=2)
    # What both have: projections to the latents; what the first has alone: the router.
    print(f"weights: {whole[0]} bytes on one rank, {parts[0]} and {parts[1]} on two")
    assert whole[0] / 2 < parts[1] < parts[0] < whole[0] * 0.7, "ranks hold their share"
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
