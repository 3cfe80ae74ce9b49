"""What must hold of every kernel in the tree before it may run on a GPU. Complaints are sentences; none means good."""

import re
import shlex
import subprocess

TARGETS = ("sm_80", "sm_90a")
REGISTERS_PER_BLOCK = 65536  # of a multiprocessor, all targets
WARPS_PER_SCHEDULER_SET = 4  # registers are dealt to warps in rounds of four
THREADS_MAX = 1024
TENSOR_OPCODES = ("HMMA", "IMMA", "HGMMA", "QGMMA")
HOPPER_OPCODES = ("HGMMA", "QGMMA")
LOCAL_OPCODES = ("LDL", "STL")
# ptxas: C7508 setmaxnreg is ignored; C7510 to C7515 and C7520 wgmma instructions are serialized.
PTXAS_LOSSES = re.compile(r"\((C75(?:08|1[0-5]|20))\)\s*(.*)")


class Expectations:
    """expected_kernels.txt: lines of `rule file kernel what  # why`.

    tensor FILE KERNEL OPCODE   every such kernel has this instruction on the target that can have it
    local FILE KERNEL BYTES     may use up to so many bytes of local memory a thread
    """

    def __init__(self, text):
        self.tensor, self.local = [], []
        for number, line in enumerate(text.splitlines(), 1):
            fields = line.split("#")[0].split()
            if not fields:
                continue
            if len(fields) != 4 or fields[0] not in ("tensor", "local") or "#" not in line:
                raise ValueError(f"line {number}: expected `tensor|local FILE KERNEL WHAT  # why`, found {line!r}")
            rule, file, kernel, what = fields
            if rule == "tensor" and what not in TENSOR_OPCODES:
                raise ValueError(f"line {number}: {what} is no tensor-core instruction")
            (self.tensor if rule == "tensor" else self.local).append((number, file, re.compile(kernel), what))


def register_complaint(kernel):
    """A kernel must fit the block it is bounded to, or the largest there is."""
    threads = kernel.threads_max or THREADS_MAX
    warps = -(-threads // 32)
    warps = -(-warps // WARPS_PER_SCHEDULER_SET) * WARPS_PER_SCHEDULER_SET
    per_thread = -(-kernel.registers // 8) * 8
    if warps * 32 * per_thread > REGISTERS_PER_BLOCK:
        bound = f"__launch_bounds__ of {threads}" if kernel.threads_max else "no __launch_bounds__"
        return f"{kernel.registers} registers do not fit: it has {bound}"
    return None


def local_complaint(kernel, bytes_max):
    uses = sum(kernel.instructions[name] for name in LOCAL_OPCODES)
    if kernel.frame_bytes > bytes_max or (uses and not bytes_max):
        return f"{kernel.frame_bytes} bytes of local memory ({uses} LDL and STL), at most {bytes_max} allowed"
    return None


def object_complaints(file, kernels, expectations):
    """Of one source file's kernels, all targets."""
    symbols = {}
    for kernel in kernels:
        symbols.setdefault(kernel.symbol, set()).add(kernel.target)
        bytes_max = max((int(what) for _, f, name, what in expectations.local
                         if f == file and name.fullmatch(kernel.name)), default=0)
        for complaint in (register_complaint(kernel), local_complaint(kernel, bytes_max)):
            if complaint:
                yield f"{file}: {kernel.name} on {kernel.target}: {complaint}"
    for symbol, targets in symbols.items():
        if targets != set(TARGETS):
            yield f"{file}: {symbol} is there for {sorted(targets)}, expected {sorted(TARGETS)}"


def has_target_for(kernel, opcode):
    """Hopper's instructions exist on sm_90a alone; the others must be on every target."""
    return kernel.target == "sm_90a" or opcode not in HOPPER_OPCODES


def expectation_complaints(objects, expectations):
    """objects: {file: kernels}. Every line of the list must be met, and no tensor-core kernel be missing from it."""
    for number, file, name, opcode in expectations.tensor:
        found = [k for k in objects.get(file, []) if name.fullmatch(k.name)]
        if not found:
            yield f"expected_kernels.txt:{number}: no kernel of {file} matches {name.pattern}"
        for kernel in found:
            if has_target_for(kernel, opcode) and not kernel.instructions[opcode]:
                yield f"{file}: {kernel.name} on {kernel.target} has no {opcode}"
    for number, file, name, _ in expectations.local:
        matching = [k for k in objects.get(file, []) if name.fullmatch(k.name)]
        if not any(k.frame_bytes or any(k.instructions[o] for o in LOCAL_OPCODES) for k in matching):
            yield f"expected_kernels.txt:{number}: nothing there uses local memory any more, remove the line"
    for file, kernels in objects.items():
        for kernel in kernels:
            listed = any(f == file and name.fullmatch(kernel.name) for _, f, name, _ in expectations.tensor)
            used = [o for o in TENSOR_OPCODES if kernel.instructions[o]]
            if used and not listed:
                yield f"{file}: {kernel.name} uses {', '.join(used)} and is not in expected_kernels.txt"


def ptxas_losses(text):
    """[(code, sentence)] of what ptxas said it had to give up."""
    return PTXAS_LOSSES.findall(text)


def hopper_only(command, output):
    """A compile command of compile_commands.json, made to compile for sm_90a alone to `output`, verbosely."""
    words, kept, skip = shlex.split(command), [], False
    for word, following in zip(words, words[1:] + [""]):
        if skip:
            skip = False
        elif word in ("-o", "-MF", "-MT"):
            skip = True
        elif not (word.startswith("--generate-code=arch=compute_80") or word == "-MD"):
            kept.append(word)
    return kept + ["-Xptxas=-v,-warn-spills,-warn-lmem-usage", "-o", output]


def run_compiler(command, directory):
    """What it said; RuntimeError with the end of it when it fails."""
    done = subprocess.run(command, cwd=directory, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)} failed: {done.stdout[-2000:]}")
    return done.stdout
