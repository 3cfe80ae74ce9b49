#!/usr/bin/env python3
"""Peak memory of an expert worker and the CPU an idle cluster uses, with 2 GiB of experts a worker.

The model is synthetic. Asserts, from /proc: VmHWM of each expert worker, which has loaded and packed its experts,
<= 1.1 x the bytes they take packed; that half of them or more lie on huge pages where the system offers those; and
that every process of an idle cluster sleeps: it wakes up for its heartbeats and for nothing else. Meant for a release
build; skips (exit 77) where it cannot mean anything. TANDEM_MEMORY_FORMAT names another format than q8_0.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

BINARIES = pathlib.Path(os.environ.get("TANDEM_BINARY_DIR", "build/release")) / "bin"
EXPERT_BYTES_MIN = 2 << 30
FORMAT = os.environ.get("TANDEM_MEMORY_FORMAT", "q8_0")
PEAK_MAX = 1.1  # of the packed experts
HUGE_SHARE_MIN = 0.5  # of the packed experts: all of them when memory has free runs of 2 MiB, fewer when it has not
IDLE_SECONDS = 10
IDLE_SHARE_MAX = 0.05  # of one core, a process: ten times what the allowed wake-ups took where they were dearest
IDLE_WAKE_UPS_MAX = 60  # a second, a process: heartbeats cause 15 to 30; polling every 10 ms would add 100
# hidden 2048, 64 experts of 1536 (a multiple of 256): a q8_0 expert is 3 * 2048 * 1536 * 34 / 32 bytes
# = 9.56 MiB, a layer 612 MiB; eight expert layers on two workers are 2.4 GiB each. One dense layer in
# front. Small vocabulary and few heads: only the experts matter here.
CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 512,
    "hidden_size": 2048, "intermediate_size": 2048, "moe_intermediate_size": 1536,
    "num_hidden_layers": 9, "num_nextn_predict_layers": 0, "first_k_dense_replace": 1,
    "moe_layer_freq": 1, "n_routed_experts": 64, "n_shared_experts": 1, "num_experts_per_tok": 6,
    "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "scoring_func": "sigmoid",
    "topk_method": "noaux_tc", "routed_scaling_factor": 2.5, "num_attention_heads": 4,
    "num_key_value_heads": 4, "q_lora_rank": 256, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "rope_theta": 10000, "rope_scaling": None, "max_position_embeddings": 4096,
    "attention_bias": False, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
}


def skip(reason):
    print(f"SKIPPED: {reason}")
    sys.exit(77)


def sanitized():
    """True when the worker is built with a sanitizer: its shadow memory would be measured instead."""
    symbols = subprocess.run(["ldd", BINARIES / "tandem-cpu-worker"], capture_output=True, text=True)
    return "libasan" in symbols.stdout or "libtsan" in symbols.stdout


def status_bytes(pid, key):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/{pid}/status: no {key}")


def huge_bytes(pid):
    """Anonymous memory of the process on pages of 2 MiB."""
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/{pid}/smaps_rollup: no AnonHugePages")


def huge_pages_offered():
    try:
        return "[never]" not in pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except FileNotFoundError:
        return False


def cpu_seconds(pid):
    """Of all threads, those that have ended too."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wake_ups(pid):
    """How often each thread of the process went to sleep so far, by its number."""
    counts = {}
    for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            status = (thread / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        counts[thread.name] = int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return counts


def metric(admin, name):
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=5) as reply:
        text = reply.read().decode()
    for line in text.splitlines():
        if line.split("{")[0].split(" ")[0] == name:
            return float(line.rsplit(" ", 1)[1])
    raise SystemExit(f"{admin}: no metric {name} in\n{text}")


def weight_bytes(admin):
    """The gauge is brought up to date by a timer, so a fresh worker may still show none."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        value = metric(admin, "tandem_expert_weight_bytes")
        if value > 0:
            return value
        time.sleep(0.2)
    raise SystemExit(f"{admin}: tandem_expert_weight_bytes stayed 0")


def wait_ready(state_path, launcher, wait_s_max):
    end = time.monotonic() + wait_s_max
    while time.monotonic() < end:
        if launcher.poll() is not None:
            raise SystemExit(f"`tandem up` ended with {launcher.returncode} before it was ready")
        try:
            state = json.loads(state_path.read_text())
            if state.get("ready"):
                return state
        except (FileNotFoundError, json.JSONDecodeError):
            pass
        time.sleep(0.1)
    raise SystemExit(f"the cluster was not ready within {wait_s_max} s")


def check_memory(state):
    failures = 0
    for process in state["processes"]:
        if process["role"] != "cpu_worker":
            continue
        held = weight_bytes(process["admin"])
        peak = status_bytes(process["pid"], "VmHWM")
        huge = huge_bytes(process["pid"])
        print(f"{process['name']}: packed experts {held / 2**20:.0f} MiB, peak {peak / 2**20:.0f} MiB, "
              f"ratio {peak / held:.3f} (at most {PEAK_MAX}), on huge pages {huge / held:.3f}")
        if held < EXPERT_BYTES_MIN and FORMAT == "q8_0":
            print("  too few experts for this test")
            failures += 1
        if peak > PEAK_MAX * held:
            failures += 1
        if huge_pages_offered() and huge < HUGE_SHARE_MIN * held:
            print(f"  expected {HUGE_SHARE_MIN} of them on huge pages")
            failures += 1
    return failures


def check_idle(state):
    """What an idle process does is its heartbeats. Their number is the program's, so wake-ups are counted; what one of
    them costs is the machine's (30 to 250 microseconds seen), so the bound on time only tells sleeping from polling."""
    processes = state["processes"]
    before = [(cpu_seconds(process["pid"]), wake_ups(process["pid"])) for process in processes]
    time.sleep(IDLE_SECONDS)
    failures = 0
    for process, (seconds, counts) in zip(processes, before):
        used = (cpu_seconds(process["pid"]) - seconds) / IDLE_SECONDS
        rates = {thread: (count - counts[thread]) / IDLE_SECONDS
                 for thread, count in wake_ups(process["pid"]).items() if thread in counts}
        print(f"idle {process['name']}: {100 * used:.2f} % of one core (at most {100 * IDLE_SHARE_MAX:.0f}), "
              f"{sum(rates.values()):.1f} wake-ups/s (at most {IDLE_WAKE_UPS_MAX}), "
              f"the busiest thread {max(rates.values()):.1f}")
        if used > IDLE_SHARE_MAX or sum(rates.values()) > IDLE_WAKE_UPS_MAX:
            failures += 1
    return failures


def main():
    if sanitized():
        skip("a sanitizer build measures its own shadow memory")
    with tempfile.TemporaryDirectory(prefix="tandem_memory_") as directory:
        if shutil.disk_usage(directory).free < 12 << 30:
            skip("needs 12 GB of free disk in the temporary directory")
        if os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") < 12 << 30:
            skip("needs 12 GB of memory")
        directory = pathlib.Path(directory)
        config, model = directory / "config.json", directory / "model.gguf"
        config.write_text(json.dumps(CONFIG))
        subprocess.run([BINARIES / "tandem-model", "synth", "--config", config, "--format", FORMAT,
                        "--container", "gguf", "--out", model], check=True, timeout=600)
        state_path = directory / "state.json"
        launcher = subprocess.Popen([BINARIES / "tandem", "up", "--model", model, "--cpu-workers", "2",
                                     "--listen", "127.0.0.1:0", "--state-file", state_path])
        try:
            state = wait_ready(state_path, launcher, 300)
            failures = check_memory(state) + check_idle(state)
        finally:
            launcher.send_signal(signal.SIGTERM)
            code = launcher.wait(timeout=60)
        print(f"`tandem up` ended with {code}")
        sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
