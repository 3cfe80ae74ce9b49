#!/usr/bin/env python3
"""Kernels as they were built: both targets there, registers within bounds, no local memory, tensor cores in use.

sass_test.py NVCC BAD_KERNELS, with TANDEM_SOURCE_DIR and TANDEM_BINARY_DIR. Reads objects and compiles
only bad_kernels.cu.
"""

import os
import pathlib
import sys
import tempfile

import gates
from cubins import BadObject, kernels_of
from kernel_objects import compilations

HERE = pathlib.Path(__file__).resolve().parent
GENCODE = ["-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90a,code=sm_90a"]


def compile_kernels(nvcc, source, *flags):
    """Kernels of a source file that no build knows."""
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "kernels.o")
        gates.run_compiler([nvcc, "-std=c++20", "-O3", *flags, "-c", os.path.abspath(source), "-o", output], folder)
        return kernels_of(output)


def self_test(nvcc, bad_kernels):
    """Every mistake of bad_kernels.cu is found, and only those."""
    kernels = compile_kernels(nvcc, bad_kernels, *GENCODE)
    try:
        compile_kernels(nvcc, bad_kernels, GENCODE[1], "-Xfatbin=-compress-all")
        yield "self-test: a compressed fat binary was read as if it were not"
    except BadObject:
        pass
    none = gates.Expectations("")
    found = list(gates.object_complaints("bad.cu", kernels, none)) + list(
        gates.expectation_complaints({"bad.cu": kernels}, none))
    expected = {("SpillingKernel", "sm_80", "local memory"), ("SpillingKernel", "sm_90a", "local memory"),
                ("UnboundedKernel", "sm_80", "do not fit"), ("UnboundedKernel", "sm_90a", "do not fit"),
                ("SerializedKernel", "", "uses HGMMA and is not in")}
    for words in expected:
        if not any(all(word in complaint for word in words) for complaint in found):
            yield f"self-test: {words} was not found in {found}"
    if len(found) != len(expected):
        yield f"self-test: expected {len(expected)} complaints, found {found}"
    half = [kernel for kernel in kernels if kernel.target == "sm_80"]
    if not any("expected ['sm_80', 'sm_90a']" in c for c in gates.object_complaints("bad.cu", half, none)):
        yield "self-test: a missing target was not found"
    spills = gates.Expectations("local bad.cu SpillingKernel 1088 # why\nlocal bad.cu UnboundedKernel 8 # why")
    if sum("local memory" in c for c in gates.object_complaints("bad.cu", kernels, spills)) != 0:
        yield "self-test: allowed local memory was complained about"
    if sum("remove the line" in c for c in gates.expectation_complaints({"bad.cu": kernels}, spills)) != 1:
        yield "self-test: an allowance nobody needs was not found"
    wrong = gates.Expectations("tensor bad.cu SerializedKernel QGMMA # why\ntensor bad.cu Nobody HMMA # why")
    if len(list(gates.expectation_complaints({"bad.cu": kernels}, wrong))) != 2:
        yield "self-test: a kernel without its instruction, or a line without a kernel, was not found"


def main(argv):
    complaints = list(self_test(argv[1], argv[2]))
    expectations = gates.Expectations((HERE / "expected_kernels.txt").read_text(encoding="utf-8"))
    objects = {}
    try:
        for compilation in compilations(os.environ["TANDEM_BINARY_DIR"], os.environ["TANDEM_SOURCE_DIR"]):
            objects[compilation.file] = compilation.kernels()
    except BadObject as error:
        complaints.append(str(error))
    for file, kernels in objects.items():
        complaints += gates.object_complaints(file, kernels, expectations)
    complaints += gates.expectation_complaints(objects, expectations)
    for complaint in complaints:
        print(complaint)
    count = sum(len(kernels) for kernels in objects.values())
    print(f"{count} kernels (each target counted) of {len(objects)} files: {len(complaints)} complaints")
    return 1 if complaints or not count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
