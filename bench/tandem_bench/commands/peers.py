"""bench/run peers: the same expert layer on Tandem, llama.cpp, ik_llama.cpp and kt-kernel, in turns."""

import json
import math
import statistics

from tandem_bench.build import build_programs, run_step
from tandem_bench.commands.kernels import ALL_TYPES, SHAPES, add_arena_argument, arena_mib, chosen
from tandem_bench.engine_child import EngineChild, EngineFailed
from tandem_bench.machine import OtherLoad, memory_available_bytes
from tandem_bench.paths import cache_dir
from tandem_bench.problem import Problem
from tandem_bench.results import ResultFile, print_table
from tandem_bench.rivals import RIVALS

HELP = "one expert layer on Tandem and on other engines, interleaved: ratio to the best of them, share of the limit"

PROGRAM = "tandem-bench-layer"
MAIN_TYPES = "bf16,q8_0,q4_K,q6_K,iq1_s"
INTEGER_PEAKS, FLOAT_PEAKS = ("int8", "amx_int8"), ("fma", "bf16", "amx_bf16")
CHECKED_VALUES = 256  # outputs compared with Tandem's
READ_SAMPLES = 6  # one of each access pattern, in every round
ENGINE_S_MAX = 6.0  # an engine that has used this much of a cell sits out after ROUNDS_MIN rounds
ROUNDS_MIN = 2
MEMORY_SPARE_ARENAS = 2  # buffers, and what engines need while they load

COLUMNS = """shape type gate_up_type down_type hidden inter phase threads rows_per_expert experts engine form build
    status us_median us_best gb_s gflop_s bytes_per_expert read_gb_s read_gb_s_best peak_gop_s limit share_of_limit
    share_of_limit_best best_rival ratio_to_best_rival ratio_of_bests output_error runs rounds other_cores""".split()

TABLE = {"shape": "shape", "type": "type", "threads": "thr", "rows_per_expert": "rows", "engine": "engine",
         "form": "form", "us_median": "us", "gb_s": "GB/s", "gflop_s": "GFLOP/s", "limit": "limit",
         "share_of_limit": "of limit", "ratio_to_best_rival": "vs best rival", "output_error": "error",
         "other_cores": "others", "status": "status"}


def add_arguments(parser):
    parser.add_argument("--types", default=MAIN_TYPES, help="weight formats (%(default)s)")
    parser.add_argument("--rows", default="1,4,16,64,512", help="rows per expert; 1 is decode (%(default)s)")
    parser.add_argument("--shape", default="v3", help="expert shapes (%(default)s); known: " + ", ".join(SHAPES))
    parser.add_argument("--rivals", default=",".join(RIVALS), help="other engines (%(default)s)")
    parser.add_argument("--experts", type=int, default=8, help="experts a token goes to (%(default)s)")
    add_arena_argument(parser)
    parser.add_argument("--rounds", type=int, default=5, help="turns of every engine in a cell (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.3, help="time of one turn at least (%(default)s)")


class Weights:
    """One format's experts on disk, and how many of them every engine holds in memory."""

    distinct = 2

    def __init__(self, args, program, shape, type_name):
        self.type, self.used = type_name, args.experts
        self.hidden, self.inter = SHAPES[shape]
        self.prefix = cache_dir() / "layers" / f"{shape}-{type_name}"
        self.prefix.parent.mkdir(exist_ok=True)
        answer = json.loads(run_step([program, "make", "--type", type_name, "--hidden", self.hidden, "--inter",
                                     self.inter, "--distinct", self.distinct, "--out", self.prefix], "making weights"))
        self.gate_up_type, self.down_type = answer["gate_up_type"], answer["down_type"]
        self.stored_bytes = answer["stored_bytes_per_expert"]
        self.down_bytes = answer["stored_down_bytes_per_expert"]
        count = max(arena_mib(args) * 2**20 / self.stored_bytes, self.distinct)
        self.experts = math.ceil(count / self.used) * self.used
        self.gflop_per_row = 6 * self.hidden * self.inter / 1e9

    def remove(self):
        for ending in (".stored", ".bf16", ".inputs"):
            self.prefix.with_name(self.prefix.name + ending).unlink(missing_ok=True)


class Contestant:
    """An engine with one form of weights; its figures of the current cell."""

    def __init__(self, engine, form, build, bytes_per_expert):
        self.engine, self.form, self.build, self.bytes_per_expert = engine, form, build, bytes_per_expert
        self.child = None
        self.status = "ok"
        self.output = []
        self.seconds = []
        self.rounds = 0

    def start(self, command):
        try:
            self.child = EngineChild(self.engine, command)
            self.form = self.child.hello["form"]
            self.bytes_per_expert = self.child.hello.get("packed_bytes_per_expert", self.bytes_per_expert)
        except EngineFailed as failure:
            self.status = str(failure)

    def ask(self, command):
        try:
            return self.child.ask(command)
        except EngineFailed as failure:
            self.status, self.child = str(failure), None
            return None

    def begin_cell(self, threads, rows):
        """The first run of a cell sizes buffers and gives the outputs to compare."""
        self.seconds, self.rounds, self.output = [], 0, []
        if self.child:
            answer = self.ask(f"check {threads} {rows} {CHECKED_VALUES}")
            self.output = answer["y"] if answer else []

    def take_turn(self, threads, rows, seconds):
        tired = sum(self.seconds) > ENGINE_S_MAX and self.rounds >= ROUNDS_MIN
        if not self.child or tired:
            return
        answer = self.ask(f"run {threads} {rows} 1 {seconds}")
        if answer:
            self.seconds += answer["seconds"]
            self.rounds += 1

    def stop(self):
        if self.child:
            self.child.close()
            self.child = None


def relative_error(values, expected):
    scale = math.sqrt(sum(value * value for value in expected))
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(values, expected))) / scale if scale else None


def contestants_of(args, rivals, weights, program, threads):
    """Everyone who takes part with these weights; those who cannot say so in their status."""
    tandem = Contestant("tandem", "packed", "this tree", weights.stored_bytes)
    commands = [(tandem, [program, "serve", "--type", weights.type, "--hidden", weights.hidden, "--inter",
                          weights.inter, "--distinct", weights.distinct, "--in", weights.prefix, "--experts",
                          weights.used, "--arena-mib", arena_mib(args)])]
    for rival in rivals:
        for form, label in (("stored", "as stored"), ("own", "own format")):
            contestant = Contestant(rival.name, label, rival.build, weights.stored_bytes)
            commands.append((contestant, rival.command(weights, form, threads)))
    # The last first: kt-kernel converts through a copy in bf16, for which there is memory only at the start.
    for contestant, command in reversed(commands):
        if command is None:
            contestant.status = f"unsupported: no format of its own near {weights.type}"
        else:
            contestant.start(command)
    everyone = [contestant for contestant, _ in commands]
    if tandem.status != "ok":
        stop_all(everyone)
        raise Problem(f"{PROGRAM}: {tandem.status}")
    return everyone


def stop_all(everyone):
    for contestant in everyone:
        contestant.stop()


def check_memory(args, rivals):
    """Every engine holds its experts, in each form, for the whole cell."""
    need, available = (1 + 2 * len(rivals) + MEMORY_SPARE_ARENAS) * arena_mib(args) << 20, memory_available_bytes()
    if available < need:
        raise Problem(f"expected {need / 2**30:.1f} GiB of free memory for {1 + 2 * len(rivals)} sets, found "
                      f"{available / 2**30:.1f} GiB: end other programs, or name fewer --rivals")


class Limits:
    """What the machine gave while a cell was measured."""

    def __init__(self, tandem, threads):
        self.tandem, self.threads = tandem, threads
        self.reads, self.best_reads = [], []
        self.peaks = tandem.child.ask(f"peaks {threads}")

    def sample_reads(self):
        answer = self.tandem.child.ask(f"read {self.threads} {READ_SAMPLES}")
        self.reads.append(answer["read_gb_s"])
        self.best_reads.append(answer["read_gb_s_best"])

    def read_gb_s(self):
        return statistics.median(self.reads)

    def peak(self, type_name):
        kinds = FLOAT_PEAKS if type_name in ("bf16", "f16") else INTEGER_PEAKS
        return max(self.peaks.get(kind, 0.0) for kind in kinds)


def row_of(contestant, weights, limits, rows):
    """The figures of one engine in one cell, without comparisons."""
    row = {"engine": contestant.engine, "form": contestant.form, "build": contestant.build,
           "status": contestant.status, "bytes_per_expert": contestant.bytes_per_expert,
           "runs": len(contestant.seconds), "rounds": contestant.rounds}
    if not contestant.seconds:
        return row
    median, best = statistics.median(contestant.seconds), min(contestant.seconds)
    gbytes = contestant.bytes_per_expert * weights.used / 1e9
    gflop = weights.gflop_per_row * rows * weights.used
    read_s, compute_s = gbytes / limits.read_gb_s(), gflop / limits.peak(weights.type)
    return {**row, "us_median": median * 1e6, "us_best": best * 1e6, "gb_s": gbytes / median,
            "gflop_s": gflop / median, "read_gb_s": limits.read_gb_s(), "read_gb_s_best": max(limits.best_reads),
            "peak_gop_s": limits.peak(weights.type), "limit": "read" if read_s >= compute_s else "compute",
            "share_of_limit": max(read_s, compute_s) / median,
            "share_of_limit_best": max(gbytes / max(limits.best_reads), compute_s) / best}


def add_comparison(rows, everyone):
    """Tandem's ratio to the fastest other engine, and every engine's distance from Tandem's outputs."""
    for row, contestant in zip(rows, everyone):
        if contestant.output:
            row["output_error"] = relative_error(contestant.output, everyone[0].output)
    rivals = [row for row in rows[1:] if "us_median" in row]
    if rivals and "us_median" in rows[0]:
        best = min(rivals, key=lambda row: row["us_median"])
        rows[0]["best_rival"] = f"{best['engine']} {best['form']}"
        rows[0]["ratio_to_best_rival"] = best["us_median"] / rows[0]["us_median"]
        rows[0]["ratio_of_bests"] = min(row["us_best"] for row in rivals) / rows[0]["us_best"]


def measure_cell(args, everyone, weights, threads, rows):
    for contestant in everyone:
        contestant.begin_cell(threads, rows)
    limits = Limits(everyone[0], threads)
    with OtherLoad([c.child.process.pid for c in everyone if c.child]) as load:
        for _ in range(ROUNDS_MIN if args.quick else args.rounds):
            limits.sample_reads()
            for contestant in everyone:
                contestant.take_turn(threads, rows, 0.0 if args.quick else args.seconds)
        limits.sample_reads()
    if everyone[0].child is None:
        raise Problem(f"{PROGRAM}: {everyone[0].status}")
    result = [row_of(contestant, weights, limits, rows) for contestant in everyone]
    add_comparison(result, everyone)
    return [{**row, "threads": threads, "rows_per_expert": rows, "phase": "decode" if rows == 1 else "prefill",
             "other_cores": load.cores} for row in result]


def measure_type(args, program, rivals, results, shape, type_name):
    weights = Weights(args, program, shape, type_name)
    what = {"shape": shape, "type": type_name, "gate_up_type": weights.gate_up_type, "down_type": weights.down_type,
            "hidden": weights.hidden, "inter": weights.inter, "experts": weights.used}
    for threads in args.threads:
        everyone = contestants_of(args, rivals, weights, program, threads)
        try:
            for rows in map(int, args.rows.split(",")):
                for row in measure_cell(args, everyone, weights, threads, rows):
                    results.add({**what, **row})
                tandem = results.rows[-len(everyone)]
                print(f"  {shape} {type_name} rows {rows} threads {threads}: {tandem['share_of_limit']:.0%} of the "
                      f"limit, {tandem.get('ratio_to_best_rival', math.nan):.2f} x {tandem.get('best_rival')}",
                      flush=True)
        finally:
            stop_all(everyone)
    weights.remove()


def run(args):
    types = chosen(args.types, [name for name in ALL_TYPES if name != "fp8"], "--types")
    shapes = ["tiny"] if args.quick else chosen(args.shape, SHAPES, "--shape")
    rivals = [RIVALS[name]() for name in chosen(args.rivals, RIVALS, "--rivals")]
    for rival in rivals:
        rival.prepare()
    check_memory(args, rivals)
    program = build_programs(args, [PROGRAM])[PROGRAM]
    results = ResultFile(args.results, "peers", COLUMNS)
    for shape in shapes:
        for type_name in types:
            measure_type(args, program, rivals, results, shape, type_name)
    print_table(results.rows, TABLE)
    print(f"written: {results.path}")
    return 0
