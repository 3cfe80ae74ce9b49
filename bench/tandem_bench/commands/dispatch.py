"""bench/run dispatch: the way of rows to an expert worker and back, beside raw round trips of the same bytes."""

import json
import subprocess

from tandem_bench.build import build_programs, build_type
from tandem_bench.machine import OtherLoad, all_cpus
from tandem_bench.problem import Problem
from tandem_bench.results import ResultFile, print_table

HELP = "dispatch, frame, transport, queue, reply and combine of an expert call over TCP, Unix sockets and shared memory"

PROGRAM = "tandem-bench-dispatch"
LIMITS = "tandem-bench-limits"

# Of the models: values of a row, experts of a token, layers with experts, inner width of an expert.
SHAPES = {"v3": (7168, 8, 58, 2048), "v2lite": (2048, 6, 26, 1408)}
Q4_K_BYTES_PER_WEIGHT = 144 / 256  # block_q4_K: 256 weights in 144 bytes
RAW_OF = {"grpc-tcp": "raw-tcp", "grpc-unix": "raw-unix", "shm": "raw-shm"}
TARGET_RATIO = 2.0
TARGET_SHM_US = 25.0
# Expert workers a model is spread over when its share of a step is worked out.
WORKERS = (1, 16)

COLUMNS = """shape hidden rows gap_us spin_us way p50_us p99_us best_us rounds send_p50_us compute_p50_us raw_way
    raw_p50_us raw_p99_us ratio_to_raw target_ratio target_us moe_layers way_ms_per_step read_gb_s
    expert_ms_per_step_1_worker
    share_of_step_1_worker share_of_step_16_workers other_cores build""".split()

TABLE = {"shape": "shape", "rows": "rows", "gap_us": "gap", "way": "way", "p50_us": "p50 us", "p99_us": "p99 us",
         "raw_p50_us": "raw p50", "ratio_to_raw": "vs raw", "send_p50_us": "send", "compute_p50_us": "compute",
         "way_ms_per_step": "ms/step", "share_of_step_1_worker": "of step, 1 worker",
         "share_of_step_16_workers": "of step, 16", "other_cores": "others"}


def add_arguments(parser):
    parser.add_argument("--rows", default="1,8", help="rows of a call (%(default)s)")
    parser.add_argument("--gap-us", default="0,300",
                        help="time between two calls, in which a worker may fall asleep (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5000, help="calls of each kind (%(default)s)")
    parser.add_argument("--spin-us", type=float, default=50, help="how long the caller waits awake (%(default)s)")
    parser.add_argument("--shape", default="v3,v2lite", help="models (%(default)s); known: " + ", ".join(SHAPES))


def json_lines(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise Problem(lines[-1] if lines else f"{command[0]} ended with exit code {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def read_gb_s(limits, quick):
    """What all threads read from memory, by the best pattern: the least time a step's experts take."""
    rows = json_lines([str(limits), "--rounds", "3", "--mib", "64" if quick else "2048", "--threads-max",
                       str(all_cpus())])
    return max(row["median_gb_s"] for row in rows if row["limit"] == "read" and row["threads"] == all_cpus())


def expert_ms_per_step(shape, gb_s):
    hidden, top_k, layers, inter = SHAPES[shape]
    return layers * top_k * 3 * hidden * inter * Q4_K_BYTES_PER_WEIGHT / gb_s / 1e6


def add_derived(row, shape, raw, gb_s):
    """Ratios and shares of one measured way; raw round trips have neither."""
    layers = SHAPES[shape][2]
    row["moe_layers"] = layers
    row["way_ms_per_step"] = row["p50_us"] * layers / 1e3
    row["read_gb_s"] = gb_s
    row["expert_ms_per_step_1_worker"] = expert_ms_per_step(shape, gb_s)
    for workers in WORKERS:
        experts_ms = row["expert_ms_per_step_1_worker"] / workers
        share = row["way_ms_per_step"] / (row["way_ms_per_step"] + experts_ms)
        row[f"share_of_step_{workers}_worker{'s' if workers > 1 else ''}"] = share
    if row["way"] not in RAW_OF:
        return
    beside = raw[RAW_OF[row["way"]], row["rows"]]
    row["raw_way"] = beside["way"]
    row["raw_p50_us"], row["raw_p99_us"] = beside["p50_us"], beside["p99_us"]
    row["ratio_to_raw"] = row["p50_us"] / beside["p50_us"]
    row["target_ratio"] = TARGET_RATIO
    if row["way"] == "shm" and row["rows"] == 1:
        row["target_us"] = TARGET_SHM_US


def run(args):
    shapes = args.shape.split(",")
    if not set(shapes) <= set(SHAPES):
        raise Problem(f"--shape takes {', '.join(SHAPES)}, found {args.shape}")
    programs = build_programs(args, [PROGRAM, LIMITS])
    results = ResultFile(args.results, "dispatch", COLUMNS)
    gb_s = read_gb_s(programs[LIMITS], args.quick)
    rounds = min(args.rounds, 200) if args.quick else args.rounds
    for shape in shapes:
        hidden, top_k, _, _ = SHAPES[shape]
        command = [str(programs[PROGRAM]), "--hidden", str(hidden), "--experts-per-token", str(top_k), "--rows",
                   args.rows, "--gap-us", args.gap_us, "--rounds", str(rounds), "--spin-us", str(args.spin_us)]
        with OtherLoad([]) as load:
            measured = json_lines(command)
        raw = {(row["way"], row["rows"]): row for row in measured}
        for row in measured:
            add_derived(row, shape, raw, gb_s)
            # Cores busy in all, of which up to two are the benchmark's own.
            results.add({"shape": shape, "spin_us": args.spin_us, "build": build_type(args.build),
                         "other_cores": max(0.0, load.cores - 2), **row})
    print_table(results.rows, TABLE)
    print(f"written: {results.path}")
    return 0
