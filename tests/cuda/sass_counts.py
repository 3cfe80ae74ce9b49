#!/usr/bin/env python3
"""Counts the instructions of the kernels in objects, programs or cubins: sass_counts.py [--all] FILE...

One line per kernel and target: registers, local memory, threads it is bounded to, and how often each instruction
of interest occurs. Tells without a GPU or a disassembler whether a kernel uses the tensor cores it was written for.
"""

import argparse
import sys

from cubins import OPCODES, BadObject, kernels_of


def line_of(kernel, all_opcodes):
    known = set(OPCODES.values())
    counts = sorted((name, count) for name, count in kernel.instructions.items() if all_opcodes or name in known)
    total = sum(kernel.instructions.values())
    return (f"{kernel.target:7} {kernel.name}: {kernel.registers} registers, {kernel.frame_bytes} bytes local, "
            f"threads {kernel.threads_max or 'unbounded'}, {total} instructions: "
            + " ".join(f"{name}={count}" for name, count in counts))


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="also opcodes without a name here")
    parser.add_argument("files", nargs="+", metavar="FILE")
    args = parser.parse_args(argv)
    try:
        for path in args.files:
            for kernel in kernels_of(path):
                print(line_of(kernel, args.all))
    except (BadObject, OSError) as error:
        print(f"sass_counts.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
