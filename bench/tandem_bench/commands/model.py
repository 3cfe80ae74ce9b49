"""bench/run model: tokens a second of a whole model, Tandem's cluster against llama.cpp on the same file."""

import statistics
import time

from tandem_bench.build import build_programs, run_step
from tandem_bench.engine_child import EngineChild, EngineFailed
from tandem_bench.local_cluster import LocalCluster
from tandem_bench.machine import OtherLoad, memory_available_bytes
from tandem_bench.paths import cache_dir
from tandem_bench.problem import Problem
from tandem_bench.results import ResultFile, print_table
from tandem_bench.rivals import PEERS, LlamaCpp, venv_python

HELP = "tokens a second of a synthetic V2-Lite on a local cluster and on llama.cpp"

PROGRAMS = ["tandem", "tandem-coordinator", "tandem-cpu-worker", "tandem-gpu-worker", "tandem-model",
            "tandem-bench-client"]
PRESET, FORMAT = "v2-lite", "q4_K_M"
# llama.cpp knows this architecture by its 27 layers, so a tiny model keeps them.
QUICK = {"n_routed_experts": 8, "vocab_size": 8192, "bos_token_id": 0, "eos_token_id": 1, "hidden_size": 512,
         "intermediate_size": 1024, "moe_intermediate_size": 256}
MEMORY_FACTOR = 1.2  # packed weights are larger than stored ones in some formats
MEMORY_SPARE_BYTES = 2 << 30

COLUMNS = """model format file_bytes threads phase tokens engine form build status tokens_per_s tokens_per_s_best
    seconds_median ratio_to_best_rival best_rival ready_s runs passes other_cores""".split()

TABLE = {"model": "model", "phase": "phase", "tokens": "tokens", "threads": "thr", "engine": "engine", "form": "form",
         "tokens_per_s": "tokens/s", "tokens_per_s_best": "best", "ratio_to_best_rival": "vs best rival",
         "other_cores": "others", "status": "status"}


def add_arguments(parser):
    parser.add_argument("--prefill", type=int, default=512, help="tokens of a prompt (%(default)s)")
    parser.add_argument("--decode", type=int, default=128, help="tokens of an answer (%(default)s)")
    parser.add_argument("--passes", type=int, default=2, help="how often every engine is started (%(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each phase in a pass (%(default)s)")


def synthetic_model(args, tandem_model):
    """The model file, made when it is not there yet."""
    path = cache_dir() / "models" / f"{PRESET}-{FORMAT}{'-quick' if args.quick else ''}.gguf"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        changes = [word for item in QUICK.items() for word in ("--set", "%s=%s" % item)] if args.quick else []
        print(f"making {path}", flush=True)
        run_step([tandem_model, "synth", "--preset", PRESET, "--format", FORMAT, "--container", "gguf", "--out", path,
                  *changes], "making a model")
    return path


class Engine:
    """One engine at one number of threads: its figures over all passes."""

    def __init__(self, name, form, build):
        self.name, self.form, self.build = name, form, build
        self.status = "ok"
        self.seconds = {"prefill": [], "decode": []}
        self.ready_s = []
        self.other_cores = []

    def measure(self, start, phases, runs):
        """`start()` gives (child, processes it consists of, how to stop them)."""
        begin = time.monotonic()
        try:
            child, pids, stop = start()
        except EngineFailed as failure:
            self.status = str(failure)
            return
        self.ready_s.append(time.monotonic() - begin)
        try:
            with OtherLoad(pids) as load:
                for phase, count in phases.items():
                    child.ask(f"{phase} {count}")  # the first run sizes buffers and brings pages in
                    self.seconds[phase] += [child.ask(f"{phase} {count}")["seconds"] for _ in range(runs)]
            self.other_cores.append(load.cores)
        except EngineFailed as failure:
            self.status = str(failure)
        finally:
            child.close()
            stop()


def start_tandem(programs, model, threads, linear):
    cluster = LocalCluster(programs["tandem"], model, threads, ["--linear", linear])
    try:
        child = EngineChild("tandem", [programs["tandem-bench-client"], "--address", cluster.address])
    except EngineFailed:
        cluster.stop()
        raise
    return child, cluster.pids() + [child.process.pid], cluster.stop


def start_llama(model, threads, form):
    child = EngineChild("llama.cpp", [venv_python(), PEERS / "llama_model.py", model, threads, form])
    return child, [child.process.pid], lambda: None


def engines_of(args, programs, rival, model, threads):
    """[(engine, how to start it)]"""
    engines = []
    for linear, label in (("stored", "layers as stored"), ("native", "layers in bf16")):
        engines.append((Engine("tandem", label, "this tree"),
                        lambda linear=linear: start_tandem(programs, model, threads, linear)))
    for form, label in (("stored", "as stored"), ("own", "own buffers")):
        engines.append((Engine(rival.name, label, rival.build),
                        lambda form=form: start_llama(model, threads, form)))
    return engines


def rows_of(engine, what, phases):
    for phase, count in phases.items():
        row = {**what, "phase": phase, "tokens": count, "engine": engine.name, "form": engine.form,
               "build": engine.build, "status": engine.status}
        seconds = engine.seconds[phase]
        if seconds:
            row |= {"seconds_median": statistics.median(seconds), "tokens_per_s": count / statistics.median(seconds),
                    "tokens_per_s_best": count / min(seconds), "runs": len(seconds), "passes": len(engine.ready_s),
                    "ready_s": statistics.median(engine.ready_s)}
        if engine.other_cores:
            row["other_cores"] = max(engine.other_cores)
        yield row


def add_ratios(rows):
    for row in rows:
        rivals = [r for r in rows if r["phase"] == row["phase"] and r["engine"] != "tandem" and "tokens_per_s" in r]
        if row["engine"] == "tandem" and rivals and "tokens_per_s" in row:
            best = max(rivals, key=lambda r: r["tokens_per_s"])
            row["best_rival"] = f"{best['engine']} {best['form']}"
            row["ratio_to_best_rival"] = row["tokens_per_s"] / best["tokens_per_s"]


def check_memory(model):
    """One engine at a time holds the weights, in its own form or in the page cache."""
    need, available = int(MEMORY_FACTOR * model.stat().st_size) + MEMORY_SPARE_BYTES, memory_available_bytes()
    if available < need:
        raise Problem(f"expected {need >> 30} GiB of free memory for {model.name}, found {available >> 30} GiB")


def run(args):
    rival = LlamaCpp()
    rival.prepare()
    programs = build_programs(args, PROGRAMS)
    model = synthetic_model(args, programs["tandem-model"])
    check_memory(model)
    phases = {"prefill": 32, "decode": 8} if args.quick else {"prefill": args.prefill, "decode": args.decode}
    results = ResultFile(args.results, "model", COLUMNS)
    for threads in args.threads:
        engines = engines_of(args, programs, rival, model, threads)
        for each_pass in range(1 if args.quick else args.passes):
            for engine, start in engines:
                if engine.status == "ok":
                    engine.measure(start, phases, 1 if args.quick else args.runs)
                    print(f"  threads {threads}, pass {each_pass + 1}: {engine.name} {engine.form}: {engine.status}",
                          flush=True)
        what = {"model": PRESET, "format": FORMAT, "file_bytes": model.stat().st_size, "threads": threads}
        rows = [row for engine, _ in engines for row in rows_of(engine, what, phases)]
        add_ratios(rows)
        for row in rows:
            results.add(row)
    print_table(results.rows, TABLE)
    print(f"written: {results.path}")
    return 0
