"""The CUDA sources of a build directory and what the build made of them."""

import json
import pathlib
import shlex

from cubins import BadObject, kernels_of

BACKEND = "gpu_worker/backend/cuda/"


class Compilation:
    """One .cu file as the build compiles it."""

    def __init__(self, entry, source_dir):
        self.file = pathlib.Path(entry["file"]).relative_to(source_dir).as_posix()
        self.directory = pathlib.Path(entry["directory"])
        self.command = entry["command"]
        words = shlex.split(self.command)
        self.object = self.directory / words[words.index("-o") + 1]

    def kernels(self):
        """BadObject when the object is missing or older than the build."""
        if not self.object.exists():
            raise BadObject(f"{self.object} is not built: build the whole project before this test")
        return kernels_of(self.object)


def compilations(build_dir, source_dir):
    """Of every .cu file of the CUDA backend, the same file once."""
    with open(pathlib.Path(build_dir) / "compile_commands.json", encoding="utf-8") as file:
        entries = json.load(file)
    found = {}
    for entry in entries:
        path = pathlib.Path(entry["file"])
        if path.suffix == ".cu" and path.is_relative_to(pathlib.Path(source_dir) / BACKEND):
            compilation = Compilation(entry, source_dir)
            found.setdefault(compilation.file, compilation)
    return list(found.values())
