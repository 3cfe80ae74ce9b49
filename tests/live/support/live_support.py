"""What live scripts share: a line per check, a cluster of real processes, stubs made from proto/.

In a folder of its own because ./test.sh --live runs every script directly in tests/live.
"""

import argparse
import contextlib
import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = ROOT / os.environ.get(
    "TANDEM_BINARY_DIR", "build/release"
)  # an absolute path stays as it is
PROGRAMS = BUILD / "bin"
DATA = pathlib.Path(os.environ.get("TANDEM_DATA", ROOT.parent / "shared/data"))


def parse_arguments(doc, add=lambda parser: None):
    """--help and whatever `add` adds. From here on SIGTERM ends the script by way of its clean-up."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add(parser)
    return parser.parse_args()


def program(name):
    """Path of one of the project's programs; exit code 1 and one sentence when it is not built."""
    path = PROGRAMS / name
    if not path.is_file():
        sys.exit(
            f"expected {path}, found nothing: build first, or set TANDEM_BINARY_DIR to the build"
            " folder"
        )
    return path


class Checks:
    """Prints a line per check as it is made and remembers what failed."""

    def __init__(self):
        self.passed, self.failed, self.skipped = 0, [], 0

    def expect(self, name, ok, detail):
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {detail}", flush=True)
        self.passed += bool(ok)
        if not ok:
            self.failed.append(name)
        return bool(ok)

    def skip(self, name, reason):
        print(f"SKIP {name}: {reason}", flush=True)
        self.skipped += 1

    @contextlib.contextmanager
    def guarded(self, name):
        """Whatever goes wrong inside is a failed check, so that the others still run."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self.expect(name, False, f"{type(error).__name__}: {error}")

    def exit_code(self):
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        failed = f", failed: {', '.join(self.failed)}" if self.failed else ""
        print(f"{self.passed} of {self.passed + len(self.failed)} checks passed{skipped}{failed}")
        return 1 if self.failed else 0


def run(*command, wait_s_max, **options):
    """The command's standard output; raises with the end of its error output when it fails."""
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, timeout=wait_s_max, **options
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"{command[1]} ended with {done.returncode}: {done.stderr.strip()[-1500:]}"
        )
    return done.stdout


class Cluster:
    """`tandem up` in a process group and folder of its own; a context manager."""

    def __init__(self, model, cpu_workers=2, flags=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tandem_live_"))
        self.state_file, self.log = self.folder / "state.json", self.folder / "tandem-up.log"
        command = [
            program("tandem"),
            "up",
            "--model",
            model,
            "--cpu-workers",
            cpu_workers,
            "--listen",
            "127.0.0.1:0",
            "--state-file",
            self.state_file,
            "--log-dir",
            self.folder,
            *flags,
        ]
        with open(self.log, "wb") as log:
            self.launcher = subprocess.Popen(
                [str(c) for c in command], stdout=log, stderr=log, start_new_session=True
            )

    def __enter__(self, wait_s_max=300):
        end = time.monotonic() + wait_s_max
        while time.monotonic() < end and self.launcher.poll() is None:
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                self.state = json.loads(self.state_file.read_text())
                if self.state["ready"]:
                    self.address = self.state["address"]
                    return self
            time.sleep(0.05)
        tail = self.log.read_text(errors="replace")[-2000:]
        self.__exit__()
        raise RuntimeError(f"`tandem up` was not ready within {wait_s_max} s: {tail}")

    def stop(self):
        """Ends it as a user would. Returns the exit code."""
        self.launcher.send_signal(signal.SIGTERM)
        return self.launcher.wait(timeout=60)

    def __exit__(self, *_):
        if self.launcher.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                os.killpg(self.launcher.pid, signal.SIGKILL)
                self.launcher.wait(timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def grpc_stubs():
    """Modules by name ("inference_pb2", "inference_pb2_grpc", ...), made of proto/ by protoc."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory(prefix="tandem_stubs_") as folder:
        files = [str(p.relative_to(ROOT)) for p in sorted((ROOT / "proto").glob("*.proto"))]
        code = protoc.main(
            ["protoc", f"-I{ROOT}", f"--python_out={folder}", f"--grpc_python_out={folder}", *files]
        )
        if code != 0:
            raise RuntimeError(f"protoc ended with {code}")
        sys.path.insert(0, folder)
        try:
            names = [p.stem for p in pathlib.Path(folder, "proto").glob("*.py")]
            yield {name: importlib.import_module(f"proto.{name}") for name in names}
        finally:
            sys.path.remove(folder)
