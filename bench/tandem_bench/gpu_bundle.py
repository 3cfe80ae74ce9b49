"""The programs bench/run gpu runs: as built here, or packed for a machine that has a GPU but no compiler or libraries.

A bundle is a folder: bin/ with the programs, lib/ with the shared libraries they need beside the C library's and the
GPU's, and `commit`, from which sources it was built. Or it is a .tar.xz of one: every program holds its kernels for two
kinds of GPU, so that the archive has an eighth of the folder's size.
"""

import atexit
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

from tandem_bench.build import run_step
from tandem_bench.paths import ROOT
from tandem_bench.problem import Problem
from tandem_bench.results import git_commit

BENCHMARK = "tandem-bench-gpu"
# Stay behind: the C library belongs to the machine, the GPU's libraries are large and come with its toolkit.
LEFT_BEHIND = re.compile(r"^(ld-linux|linux-vdso|libc\.|libm\.|libdl\.|librt\.|libpthread\.|libresolv\.|libcuda\.|"
                         r"libcublas|libnccl|libcudart)")
GPU_LIBRARIES = ("libcublasLt.so.13", "libnccl.so.2")
GPU_LIBRARY_FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/lib", "/usr/local/cuda/targets/x86_64-linux/lib",
                       "/usr/lib/x86_64-linux-gnu")


def needed_libraries(ldd_output):
    """[(name, path)] of what a program loads and a bundle must hold; a Problem names one that is missing."""
    needed = []
    for line in ldd_output.splitlines():
        match = re.match(r"\s*(\S+)(?: => (\S.*?))?(?: \(0x[0-9a-f]+\))?$", line)
        name = pathlib.PurePosixPath(match.group(1)).name if match else ""
        if not match or LEFT_BEHIND.match(name):
            continue
        if match.group(2) in (None, "not found"):
            raise Problem(f"expected the library {name} on this machine, found none")
        needed.append((name, pathlib.Path(match.group(2))))
    return needed


def gpu_library_folders():
    """Folders that hold one of GPU_LIBRARIES: the toolkit's, and those of Python's wheels of them."""
    wheels = [pathlib.Path(path) / "nvidia" for path in sys.path if path.endswith("-packages")]
    wheels += pathlib.Path("/opt").glob("*/.venv/lib/python3*/site-packages/nvidia")
    folders = [pathlib.Path(folder) for folder in GPU_LIBRARY_FOLDERS]
    folders += [path for wheel in wheels for path in sorted(wheel.glob("*/lib"))]
    return [folder for folder in folders if any((folder / name).exists() for name in GPU_LIBRARIES)]


class Bundle:
    """Where programs and libraries are, and which sources they are of."""

    def __init__(self, bin_dirs, lib_dir, commit):
        self.bin_dirs, self.lib_dir, self.commit = bin_dirs, lib_dir, commit
        self.source_dir = ROOT

    @property
    def bin_dir(self):
        return self.bin_dirs[0]

    @classmethod
    def packed(cls, path):
        folder = unpacked(path.resolve()) if is_archive(path) else path.resolve()
        if not (folder / "commit").exists():
            raise Problem(f"expected a bundle made by `bench/run gpu --pack` at {path}, found none")
        return cls([folder / "bin"], folder / "lib", (folder / "commit").read_text().strip())

    @classmethod
    def built(cls, args):
        """Configures the kernels alone, or with --whole everything, and builds the device tests and the benchmark."""
        folder = (args.build.parent / f"{args.build.name}-gpu{'-whole' if args.whole else ''}").resolve()
        if not args.no_build:
            print(f"building the kernels, their tests and their benchmark in {folder}", flush=True)
            generator = ["-G", "Ninja"] if shutil.which("ninja") else []
            if not (folder / "CMakeCache.txt").exists():
                kernels_only = "OFF" if args.whole else "ON"
                run_step(["cmake", "-S", ROOT, "-B", folder, *generator, "-DCMAKE_BUILD_TYPE=Release",
                          f"-DTANDEM_KERNELS_ONLY={kernels_only}", "-DTANDEM_CUDA=ON"], "configuring")
            tests = device_tests_of(run_step(["cmake", "--build", folder, "--target", "help"], "listing targets"))
            run_step(["cmake", "--build", folder, "-j", len(os.sched_getaffinity(0)), "--target", BENCHMARK, *tests],
                     "building")
        bin_dirs = sorted({path.parent for path in folder.glob("**/cuda_*_test") if path.is_file()})
        return cls([folder / "bin", *bin_dirs], None, git_commit())

    def tests(self):
        """Names of the device tests, in order."""
        return sorted(path.name for folder in self.bin_dirs for path in folder.glob("cuda_*_test") if path.is_file())

    def program(self, name):
        for folder in self.bin_dirs:
            if (folder / name).is_file():
                return folder / name
        raise Problem(f"expected the program {name} in {', '.join(map(str, self.bin_dirs))}, found none")

    def environment(self):
        folders = ([self.lib_dir] if self.lib_dir else []) + gpu_library_folders()
        known = [os.environ["LD_LIBRARY_PATH"]] if os.environ.get("LD_LIBRARY_PATH") else []
        return {**os.environ, "TANDEM_SOURCE_DIR": str(self.source_dir),
                "LD_LIBRARY_PATH": ":".join([*map(str, folders), *known])}


def device_tests_of(target_list):
    """Names of the targets that are device tests, from what `--target help` prints."""
    return sorted(set(re.findall(r"\bcuda_\w+_test\b", target_list)))


def is_archive(path):
    return path.name.endswith(".tar.xz")


def unpacked(archive):
    """A folder, gone when this process ends, with what is in the archive."""
    folder = tempfile.mkdtemp(prefix="tandem-gpu-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        with tarfile.open(archive, "r:xz") as tar:
            tar.extractall(folder, filter="data")
    except (OSError, tarfile.TarError, EOFError) as error:
        raise Problem(f"expected a bundle made by `bench/run gpu --pack` at {archive}: {error}") from error
    return pathlib.Path(folder)


def pack(bundle, path):
    """Copies a built bundle into a folder, or into an archive where `path` ends with .tar.xz; returns a sentence with
    its size."""
    if is_archive(path):
        with tempfile.TemporaryDirectory(prefix="tandem-gpu-") as folder:
            copy_into(bundle, pathlib.Path(folder))
            with tarfile.open(path, "w:xz") as tar:
                tar.add(folder, ".")
        return f"{path}, {path.stat().st_size / 2**20:.1f} MiB"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    copy_into(bundle, path)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return f"{path}, {size / 2**20:.1f} MiB"


def copy_into(bundle, folder):
    (folder / "bin").mkdir()
    (folder / "lib").mkdir()
    for name in [BENCHMARK, *bundle.tests()]:
        shutil.copy2(bundle.program(name), folder / "bin" / name)
        run_step(["strip", folder / "bin" / name], "stripping")
        ldd = subprocess.run(["ldd", str(bundle.program(name))], capture_output=True, text=True, check=True).stdout
        for library, path in needed_libraries(ldd):
            shutil.copy2(path.resolve(), folder / "lib" / library)
    (folder / "commit").write_text(bundle.commit + "\n")
