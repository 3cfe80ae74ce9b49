#!/usr/bin/env python3
"""What ptxas says of the files with wgmma in them: nothing serialized, no setmaxnreg ignored, nothing spilled.

ptxas_test.py NVCC BAD_KERNELS, with TANDEM_SOURCE_DIR and TANDEM_BINARY_DIR. Objects do not keep what the compiler
said, so these few files are compiled once more with the build's own command, for sm_90a alone (through ccache where
the build is).
"""

import concurrent.futures
import os
import re
import sys
import tempfile

import gates
from cubins import BadObject
from kernel_objects import compilations

PROPERTIES = re.compile(r"Function properties for (\w+)\s+\d+ bytes stack frame, (\d+) bytes spill stores, "
                        r"(\d+) bytes spill loads")


def spill_complaints(text):
    """From what -v says of each function."""
    for function, stores, loads in PROPERTIES.findall(text):
        if (stores, loads) != ("0", "0"):
            yield f"{function}: {stores} bytes of spill stores, {loads} of loads"


def self_test(nvcc, bad_kernels, folder):
    text = gates.run_compiler([nvcc, "-std=c++20", "-O3", "-gencode=arch=compute_90a,code=sm_90a", "-Xptxas=-v", "-c",
                               os.path.abspath(bad_kernels), "-o", os.path.join(folder, "bad.o")], folder)
    losses = gates.ptxas_losses(text)
    serialized = [s for code, s in losses if code != "C7508"]
    if not any("SerializedKernel" in sentence for sentence in serialized):
        yield f"self-test: the serialized wgmma of bad_kernels.cu was not found in {text}"
    if not any(code == "C7508" for code, _ in losses):
        yield f"self-test: the ignored setmaxnreg of bad_kernels.cu was not found in {text}"
    spills = list(spill_complaints(text))
    if len(spills) != 1 or "SpillingKernel" not in spills[0]:
        yield f"self-test: expected the spills of SpillingKernel, found {spills}"


def complaints_of(compilation, folder):
    output = os.path.join(folder, compilation.file.replace("/", "_") + ".o")
    text = gates.run_compiler(gates.hopper_only(compilation.command, output), compilation.directory)
    if not PROPERTIES.search(text):
        return [f"{compilation.file}: ptxas said nothing about any kernel: {text[-500:]}"]
    found = [f"({code}) {sentence}" for code, sentence in gates.ptxas_losses(text)] + list(spill_complaints(text))
    return [f"{compilation.file}: {complaint}" for complaint in found]


def uses_wgmma(compilation):
    return any(kernel.instructions[name] for kernel in compilation.kernels() for name in gates.HOPPER_OPCODES)


def main(argv):
    found = compilations(os.environ["TANDEM_BINARY_DIR"], os.environ["TANDEM_SOURCE_DIR"])
    with tempfile.TemporaryDirectory() as folder:
        complaints = list(self_test(argv[1], argv[2], folder))
        try:
            files = [compilation for compilation in found if uses_wgmma(compilation)]
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                for result in pool.map(lambda compilation: complaints_of(compilation, folder), files):
                    complaints += result
        except (BadObject, RuntimeError) as error:
            complaints.append(str(error))
            files = []
    for complaint in complaints:
        print(complaint)
    print(f"{len(files)} files with wgmma of {len(found)}: {len(complaints)} complaints")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
