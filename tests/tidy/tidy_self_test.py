#!/usr/bin/env python3
"""Proves that each rule of rules.py catches its violation: a small clean tree, then one spoiled file at a time."""

import pathlib
import sys
import tempfile
import unittest

from rules import RULES, violations
from source_text import cpp_functions, strip_cpp
from tree import Tree

HEADER = "// Adds two numbers, for everyone.\n#pragma once\n\nnamespace tandem {\nint Add(int a, int b);\n}\n"
CLEAN = {
    "docs/layers.txt": "# who includes whom\nproto:\nlib/base:\nlib/rpc: lib/base proto\nlib/kernels: lib/base\n"
                       "cpu_worker: lib/* proto\ncoordinator: lib/base proto\n",
    "docs/metrics.md": "| name |\n|---|\n| `tandem_rows_total` |\n",
    "tests/tidy/long_functions.txt": "# none\n",
    "lib/base/add.h": HEADER,
    "lib/base/CMakeLists.txt": "tandem_library(base HDRS add.h)\n",
    "lib/rpc/frame.cc": '#include <grpcpp/grpcpp.h>\n#include "lib/base/add.h"\n#include "proto/a.pb.h"\n',
    "lib/rpc/CMakeLists.txt": "tandem_library(rpc SRCS frame.cc)\n",
    "lib/kernels/dot_avx2.cc": '#include "lib/base/add.h"\n',
    "lib/kernels/CMakeLists.txt": "foreach(isa avx2)\n list(APPEND s dot_${isa}.cc)\nendforeach()\n",
    "cpu_worker/main.cc": '#include "lib/base/add.h"\n#include "lib/rpc/frame.cc"\n'
                          'auto& rows = m.Counter(\n    "tandem_rows_total", "Rows.");\nint tandem_x;\n',
    "cpu_worker/CMakeLists.txt": "tandem_program(w SRCS main.cc)\n",
    "proto/a.proto": "// Why.\nmessage A {\n  uint32 x = 1;\n}\nmessage B {\n  uint32 y = 1;  // the y\n}\n",
    "proto/CMakeLists.txt": "foreach(n a)\n  protoc(${n}.proto)\nendforeach()\n",
}
LONG_BODY = "  ++x;\n" * 69  # 71 lines with the braces


def with_built(folder, name, text):
    """A file and the CMakeLists.txt that names it beside what the clean tree has there."""
    return {f"{folder}/{name}": text,
            f"{folder}/CMakeLists.txt": CLEAN[f"{folder}/CMakeLists.txt"] + f"add({name})\n"}


# rule -> spoiled trees (what is added or replaced); each must be caught by exactly that rule.
SPOILED = {
    "layers_hold": [
        with_built("lib/base", "up.cc", '#include "lib/rpc/frame.cc"\n'),
        with_built("lib/base", "beside.cc", '#include "add.h"\n'),
        with_built("lib/base", "ghost.cc", '#include "lib/base/ghost.h"\n'),
        with_built("cpu_worker", "grpc.cc", "#include <grpcpp/channel.h>\n"),
        with_built("cpu_worker", "stub.cc", '#include "proto/a.grpc.pb.h"\n'),
        {"coordinator/hop.cc": '#include "lib/rpc/frame.cc"\n', "coordinator/CMakeLists.txt": "add(hop.cc)\n"},
    ],
    "kernels_are_arithmetic": [with_built("lib/kernels", "pool.cc", "#include <thread>\n")],
    "files_are_short": [with_built("lib/base", "long.cc", "\n" * 800)],
    "functions_are_short": [
        with_built("lib/base", "long.cc", "void F(int x) {\n" + LONG_BODY + "}\n"),
        with_built("lib/base", "member.cc", "int C::G() const {\n" + LONG_BODY + "}\n"),
        with_built("lib/base", "test.cc", "TEST(A, B) {\n" + LONG_BODY + "}\n"),
        {"tools/long.py": "def f(x):\n" + "    x += 1\n" * 70},
        {"tests/tidy/long_functions.txt": "lib/base/gone.cc F 90  # has been cut\n"},
        dict(with_built("lib/base", "grew.cc", "void F(int x) {\n" + LONG_BODY + "  ++x;\n}\n"),
             **{"tests/tidy/long_functions.txt": "lib/base/grew.cc F 71  # one step\n"}),
    ],
    "base_stays_small": [
        dict({f"lib/base/h{i}.h": HEADER for i in range(20)},
             **{"lib/base/CMakeLists.txt": "add(add.h " + " ".join(f"h{i}.h" for i in range(20)) + ")\n"}),
    ],
    "sources_are_built": [{"lib/base/lost.cc": "int x;\n"}, {"tools/lost_test.py": "x = 1\n"}],
    "headers_say_why": [
        with_built("lib/base", "mute.h", "#pragma once\nint x;\n"),
        with_built("lib/base", "twice.h", "// A reason.\nint x;\n"),
    ],
    "lines_fit": [
        with_built("lib/base", "wide.cc", "// " + "a" * 98 + "\n"),
        {"README.md": "a" * 121 + "\n"},
        {"tools/wide.py": "#" * 121 + "\n"},
    ],
    "no_leftovers": [
        with_built("lib/base", "left.cc", "// TO" + "DO: later\n"),
        {"docs/left.md": "FIX" + "ME\n"},
        {"tools/left.py": "# XX" + "X\n"},
        with_built("lib/base", "tab.cc", "\tint x;\n"),
    ],
    "folders_have_a_reason": [{"lib/utils/README.md": "things\n"}, {"tools/misc/a.txt": "things\n"}],
    "scripts_can_run": [{"tools/run.sh": "echo\n"}, {"tools/run": "#!/bin/bash\n"}],
    "metrics_are_documented": [
        with_built("cpu_worker", "count.cc", 'auto& k = m->Gauge("tandem_lost_total", "Lost.");\n'),
        {"docs/metrics.md": CLEAN["docs/metrics.md"] + "| `tandem_gone_total` |\n"},
    ],
    "proto_fields_are_explained": [
        {"proto/a.proto": "message A {\n  uint32 x = 1;\n}\n"},
        {"proto/a.proto": "// Why.\nmessage A {\n  uint32 x = 1;\n}\nmessage B {\n  map<uint32, float> y = 1;\n}\n"},
    ],
}


def rules_that_complain(files):
    with tempfile.TemporaryDirectory() as root:
        for path, text in files.items():
            target = pathlib.Path(root, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        return [found[0] for found in violations(Tree(root))]


class TidySelfTest(unittest.TestCase):
    def test_clean_tree_passes(self):
        self.assertEqual(rules_that_complain(CLEAN), [])

    def test_every_rule_has_a_spoiled_tree(self):
        self.assertEqual(set(SPOILED), {rule.__name__ for rule in RULES})

    def test_every_violation_is_caught_by_its_rule_alone(self):
        for rule, trees in SPOILED.items():
            for spoiled in trees:
                with self.subTest(rule=rule, files=sorted(spoiled)):
                    self.assertEqual(rules_that_complain({**CLEAN, **spoiled}), [rule])

    def test_test_sources_are_exempt_from_layers(self):
        files = {**CLEAN, **with_built("lib/base", "up_test.cc", '#include "lib/rpc/frame.cc"\n')}
        self.assertEqual(rules_that_complain(files), [])

    def test_fakes_are_exempt_while_only_tests_include_them(self):
        fake = "// A fake server.\n#pragma once\n#include <grpcpp/grpcpp.h>\n"
        files = {**CLEAN, "cpu_worker/fake.h": fake, "cpu_worker/fake.cc": '#include "cpu_worker/fake.h"\n',
                 "cpu_worker/x_test.cc": '#include "cpu_worker/fake.h"\n',
                 "cpu_worker/CMakeLists.txt": "add(main.cc fake.h fake.cc x_test.cc)\n"}
        self.assertEqual(rules_that_complain(files), [])
        files["cpu_worker/main.cc"] = CLEAN["cpu_worker/main.cc"] + '#include "cpu_worker/fake.h"\n'
        self.assertEqual(rules_that_complain(files), ["layers_hold"])

    def test_header_without_guard_may_say_why(self):
        files = {**CLEAN, **with_built("lib/base", "part.h", "// A part. No include guard: included twice.\nint x;\n")}
        self.assertEqual(rules_that_complain(files), [])

    def test_listed_long_function_passes(self):
        files = {**CLEAN, **with_built("lib/base", "long.cc", "void F(int x) {\n" + LONG_BODY + "}\n"),
                 "tests/tidy/long_functions.txt": "lib/base/long.cc F 71  # a forward pass\n"}
        self.assertEqual(rules_that_complain(files), [])


class SourceTextTest(unittest.TestCase):
    def test_comments_and_literals_are_blanked(self):
        self.assertEqual(strip_cpp('a("{"); // }\nb'), 'a(   );     \nb')
        self.assertEqual(strip_cpp("n = 1'000; c = '{';"), "n = 1'000; c =    ;")
        self.assertEqual(strip_cpp('R"x({)" })x" e'), "             e")

    def test_functions_are_found_with_their_length(self):
        text = ("namespace a {\nclass C {\n public:\n  C() : x_(1) {}\n  int Get() const {\n    return x_;\n  }\n"
                " private:\n  int x_ = {0};\n};\nconstexpr int kTable[] = {1, 2};\n"
                "#define M(x) do { x; \\\n  } while (0)\n"
                "void C::Long(std::function<void()> f) {\n  auto g = [] {\n    return 1;\n  };\n}\n}\n")
        self.assertEqual(cpp_functions(text), [("C", 4, 1), ("Get", 5, 3), ("C::Long", 14, 5)])


if __name__ == "__main__":
    sys.exit(unittest.main())
