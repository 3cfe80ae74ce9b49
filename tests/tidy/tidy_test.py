#!/usr/bin/env python3
"""Checks the whole tree against tests/tidy/rules.py. Usage: tidy_test.py [ROOT]; exit 1 with one line per violation."""

import pathlib
import sys

from rules import RULES, violations
from tree import Tree


def main(argv):
    root = argv[1] if len(argv) > 1 else pathlib.Path(__file__).resolve().parents[2]
    tree = Tree(root)
    found = list(violations(tree))
    for rule, path, line, sentence in found:
        print(f"{path}:{line}: {sentence} [{rule}]")
    print(f"{len(RULES)} rules over {len(tree.paths)} files: {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
