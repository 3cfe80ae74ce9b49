#!/usr/bin/env python3
"""openai-python and lm-eval, unmodified, against OpenAI's endpoints of a real cluster.

tests/openai/openai_clients_test.py, where all packages are there.
"""

import pathlib
import runpy

runpy.run_path(
    str(pathlib.Path(__file__).resolve().parents[1] / "openai/openai_clients_test.py"),
    run_name="__main__",
)
