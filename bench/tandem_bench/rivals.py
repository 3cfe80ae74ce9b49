"""The other engines: where they come from, how they are built, how their layer is started.

Everything fetched or built lies outside the tree: in $TANDEM_VENV_DIR and $TANDEM_BENCH_DIR.
"""

import pathlib
import subprocess
import sys
import tarfile

from tandem_bench.build import run_step
from tandem_bench.paths import ROOT, cache_dir, venv_dir
from tandem_bench.problem import Problem

VERSIONS = {"llama-cpp-python": "0.3.36", "ik-llama-cpp-python": "0.1.5", "kt-kernel": "0.7.2"}
PEERS = ROOT / "bench" / "peers"


def venv_python():
    python = venv_dir() / "bin" / "python"
    if not python.exists():
        print(f"making a virtual environment in {venv_dir()}", flush=True)
        run_step([sys.executable, "-m", "venv", venv_dir()], "making a virtual environment")
    return python


def installed_version(package):
    code = f"import importlib.metadata as m; print(m.version('{package}'))"
    done = subprocess.run([venv_python(), "-c", code], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def install(package, *pip_flags, env=()):
    """Installs the version of VERSIONS unless some version is there already; returns the version there is."""
    if not installed_version(package):
        print(f"installing {package} in {venv_dir()}", flush=True)
        command = [venv_python(), "-m", "pip", "install", *pip_flags, f"{package}=={VERSIONS[package]}"]
        run_step(["env", *env, *command], f"installing {package}")
    return installed_version(package)


def source_of(package, version):
    """The unpacked source distribution: the only place with an engine's headers."""
    folder = cache_dir() / "src"
    name = f"{package.replace('-', '_')}-{version}"
    if not (folder / name).is_dir():
        archive = folder / f"{name}.tar.gz"
        if not archive.exists():
            print(f"fetching the sources of {package} {version}", flush=True)
            run_step([venv_python(), "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "-d", folder,
                      f"{package}=={version}"], f"fetching {package}")
        with tarfile.open(archive) as tar:
            # Python 3.11.2, which Debian 12 has, knows no filters yet.
            tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder / name


def build_layer(name, include, libraries, *flags):
    """bench/peers/ggml_layer.cc against one engine; the path of the program."""
    missing = [str(path) for path in (include / "ggml.h", *libraries) if not path.exists()]
    if missing:
        raise Problem(f"{name}: expected {missing[0]}, found no such file")
    folder = cache_dir() / f"layer-{name}"
    run_step(["cmake", "-S", PEERS, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", f"-DGGML_INCLUDE={include}",
              f"-DGGML_LIBRARIES={';'.join(map(str, libraries))}", *flags], f"configuring the layer on {name}")
    run_step(["cmake", "--build", folder], f"building the layer on {name}")
    return folder / "ggml_layer"


class LlamaCpp:
    """llama.cpp as llama-cpp-python brings it, built for this processor."""

    name = "llama.cpp"

    def prepare(self):
        version = install("llama-cpp-python", "--no-binary", "llama-cpp-python", env=["CMAKE_ARGS=-DGGML_NATIVE=ON"])
        packages = sorted(venv_dir().glob("lib/python3*/site-packages/llama_cpp/lib"))
        if not packages:
            raise Problem(f"expected llama_cpp/lib in {venv_dir()}, found none")
        libraries = [packages[0] / f"lib{part}.so" for part in ("ggml", "ggml-base", "ggml-cpu")]
        include = source_of("llama-cpp-python", version) / "vendor" / "llama.cpp" / "ggml" / "include"
        self.program = build_layer("llama", include, libraries)
        self.build = f"llama-cpp-python {version} built from source, GGML_NATIVE=ON"

    def command(self, weights, form, threads):
        return ggml_command(self.program, weights, form)


class IkLlamaCpp:
    """ik_llama.cpp from the sources of ik-llama-cpp-python: its wheels are built for AVX2."""

    name = "ik_llama.cpp"

    def prepare(self):
        version = VERSIONS["ik-llama-cpp-python"]
        source = source_of("ik-llama-cpp-python", version) / "vendor" / "ik_llama.cpp"
        folder = cache_dir() / f"ik_llama-{version}"
        library = folder / "ggml" / "src" / "libggml.so"
        if not library.exists():
            print("building ik_llama.cpp (about five minutes of processor time)", flush=True)
            run_step(["cmake", "-S", source, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
                      "-DGGML_IQK_FA_ALL_QUANTS=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF",
                      "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_CURL=OFF", "-DBUILD_SHARED_LIBS=ON"],
                     "configuring ik_llama.cpp")
            run_step(["nice", "cmake", "--build", folder, "--target", "ggml"], "building ik_llama.cpp")
        self.program = build_layer("ik", source / "ggml" / "include", [library], "-DGGML_IS_IK=ON")
        self.build = f"ik-llama-cpp-python {version} sources, GGML_NATIVE=ON"

    def command(self, weights, form, threads):
        return ggml_command(self.program, weights, form)


class KtKernel:
    """kt-kernel's wheel, which holds an extension for each kind of processor."""

    name = "kt-kernel"
    # Its own formats, made from the weights rounded to bf16, beside the one of about the same size.
    own = {"bf16": "amx_bf16", "q8_0": "amx_int8", "q6_K": "amx_int8", "q4_K": "amx_int4"}

    def prepare(self):
        version = install("kt-kernel", "--no-deps")  # the extension needs none of its dependencies
        self.build = f"kt-kernel {version} wheel"

    def command(self, weights, form, threads):
        if form == "own":
            form = self.own.get(weights.type, "")
            if not form:
                return None
        else:
            form = weights.gate_up_type
        return [venv_python(), PEERS / "kt_layer.py", weights.prefix, weights.hidden, weights.inter,
                weights.gate_up_type, weights.down_type, weights.distinct, weights.experts, weights.used, form, threads,
                weights.down_bytes]


def ggml_command(program, weights, form):
    return [program, f"{weights.prefix}.stored", weights.hidden, weights.inter, weights.gate_up_type,
            weights.down_type, weights.distinct, weights.experts, weights.used, f"{weights.prefix}.inputs", form]


RIVALS = {"llama": LlamaCpp, "ik": IkLlamaCpp, "kt": KtKernel}
