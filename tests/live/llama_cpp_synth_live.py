#!/usr/bin/env python3
"""llama.cpp and the gguf package must be able to read what `tandem-model synth` writes.

Runs tests/model/llama_cpp_reads_synth.py, which skips where the packages are missing, with this
interpreter, which has them: here skipping is a failure.
"""

import subprocess
import sys

sys.path.insert(0, __file__.rsplit("/", 1)[0] + "/support")
import live_support  # noqa: E402


def main():
    live_support.parse_arguments(__doc__)
    checks = live_support.Checks()
    script = live_support.ROOT / "tests/model/llama_cpp_reads_synth.py"
    done = subprocess.run(
        [sys.executable, str(script), str(live_support.program("tandem-model"))],
        capture_output=True,
        text=True,
        timeout=900,
    )
    detail = (
        done.stdout.strip() if done.returncode in (0, 77) else done.stderr.strip()[-1500:]
    ) or "no output"
    checks.expect(
        "llama.cpp reads synthetic models",
        done.returncode == 0,
        f"exit code {done.returncode}, {detail}",
    )
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())
