"""bench/run kernels: the expert kernels against the limits of this machine."""

import json
import subprocess

from tandem_bench.build import build_programs, build_type
from tandem_bench.machine import last_level_cache_bytes
from tandem_bench.problem import Problem
from tandem_bench.results import ResultFile, print_table

HELP = "expert kernels by weight format and rows per expert, as shares of read bandwidth and instruction peaks"

PROGRAM = "tandem-bench-kernels"
MAIN_TYPES = ["bf16", "q8_0", "q4_K", "q6_K", "iq1_s"]
ALL_TYPES = MAIN_TYPES + ["f16", "q5_0", "q5_1", "q4_0", "q4_1", "iq4_nl", "q5_K", "q3_K", "q2_K", "iq1_m", "iq2_xxs",
                          "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs", "fp8"]
SHAPES = {"v3": (7168, 2048), "v2lite": (2048, 1408), "tiny": (512, 256), "tiny352": (256, 352)}
CACHE_MULTIPLE = 4  # the runs rotate over this many times the last-level cache: nothing is found in it
ARENA_MIB_MIN = 512
QUICK_ARENA_MIB = 8

COLUMNS = """shape type gate_up_type down_type hidden inter isa threads rows_per_expert experts us_median us_best
    us_cpu_median
    gb_s gb_s_best gflop_s gflop_s_best read_gb_s read_gb_s_best read_pattern share_of_read peak_instruction
    peak_gop_s share_of_peak limit share_of_limit peak_fma_gop_s peak_int8_gop_s peak_bf16_gop_s
    peak_amx_int8_gop_s peak_amx_bf16_gop_s packed_bytes_per_expert stored_bytes_per_expert arena_bytes
    huge_page_share runs wall_s own_cpu_s other_cores stolen_cores build""".split()

TABLE = {"shape": "shape", "type": "type", "down_type": "down", "threads": "thr", "rows_per_expert": "rows",
         "us_median": "us", "gb_s": "GB/s", "read_gb_s": "read GB/s", "share_of_read": "of read",
         "gflop_s": "GFLOP/s", "share_of_peak": "of peak", "limit": "limit", "share_of_limit": "of limit",
         "other_cores": "others"}


def add_arguments(parser):
    parser.add_argument("--types", default=",".join(MAIN_TYPES),
                        help="weight formats, or all (%(default)s); known: " + ", ".join(ALL_TYPES))
    parser.add_argument("--rows", default="1,4,16,64,512", help="rows per expert (%(default)s)")
    parser.add_argument("--shape", default="v3,v2lite",
                        help="expert shapes (%(default)s); known: " + ", ".join(SHAPES))
    parser.add_argument("--experts", type=int, default=8, help="experts in one run (%(default)s)")
    parser.add_argument("--isa", default="", help="instruction set of the kernels; default: the fastest")
    add_arena_argument(parser)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each cell (%(default)s)")


def add_arena_argument(parser):
    parser.add_argument("--arena-mib", type=int, default=0, help=f"packed experts the runs rotate over; default: "
                        f"{CACHE_MULTIPLE} times the last-level cache; less than that measures the cache")


def chosen(text, known, flag):
    names = list(known) if text == "all" else text.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Problem(f"{flag} takes {', '.join(known)} or all, found {', '.join(unknown)}")
    return names


def arena_mib(args):
    if args.quick or args.arena_mib:
        return args.arena_mib or QUICK_ARENA_MIB
    return max(ARENA_MIB_MIN, CACHE_MULTIPLE * last_level_cache_bytes() // 2**20 + 1)


def command_of(args, program, shape, types):
    hidden, inter = SHAPES[shape]
    command = [str(program), "--types", ",".join(types), "--rows", args.rows, "--hidden", str(hidden),
               "--inter", str(inter), "--threads", ",".join(map(str, args.threads)), "--experts", str(args.experts),
               "--seconds", str(0.0 if args.quick else args.seconds), "--arena-mib", str(arena_mib(args)),
               "--runs-min", "2" if args.quick else "5"]
    return command + (["--isa", args.isa] if args.isa else [])


def measured_rows(command):
    """What the program prints, row by row; a Problem with its own sentence when it fails."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            yield json.loads(line)
        complaint = process.stderr.read().strip()
    if process.returncode != 0:
        raise Problem(complaint or f"{command[0]} ended with exit code {process.returncode}")


def used_peak(row):
    """The figure behind share_of_peak, whichever instruction it is of."""
    flop_s = row["gflop_s"]
    return flop_s / row["share_of_peak"] if row["share_of_peak"] else None


def run(args):
    types = chosen(args.types, ALL_TYPES, "--types")
    shapes = ["tiny", "tiny352"] if args.quick else chosen(args.shape, SHAPES, "--shape")
    program = build_programs(args, [PROGRAM])[PROGRAM]
    results = ResultFile(args.results, "kernels", COLUMNS)
    for shape in shapes:
        for row in measured_rows(command_of(args, program, shape, types)):
            results.add({"shape": shape, "peak_gop_s": used_peak(row), "build": build_type(args.build), **row})
            print(f"  {shape} {row['type']} rows {row['rows_per_expert']} threads {row['threads']}: "
                  f"{row['gb_s']:.1f} GB/s, {row['gflop_s']:.0f} GFLOP/s, {row['share_of_limit']:.0%} of the limit",
                  flush=True)
    print_table(results.rows, TABLE)
    print(f"written: {results.path}")
    return 0
