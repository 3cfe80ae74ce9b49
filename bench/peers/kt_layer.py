#!/usr/bin/env python3
"""One expert layer on kt-kernel, driven over stdin by bench/run peers, so that engines take turns on a quiet machine.

Run by the Python of the environment that has kt-kernel. Only its extension module is used, the way its own wrappers use
it, with pointers to plain memory: torch is not needed. docs/benchmarks.md has the commands.

Arguments: weights prefix, hidden size, intermediate size, gate/up type, down type, experts in the file, experts in
memory, experts per run, form (a GGUF type of its llamafile backend, or amx_bf16, amx_int8, amx_int4), threads.
"""

import ctypes
import importlib.util
import json
import mmap
import os
import pathlib
import struct
import sys
import time

ROWS_MAX = 512
TOKEN_BY_TOKEN_MAX = 10  # its own wrapper's setting: fewer rows than this are computed one by one
ROWS_BLOCK = 32  # m_block of its own wrapper
OWN_FORMS = {"amx_bf16": "AMXBF16_MOE", "amx_int8": "AMXInt8_MOE", "amx_int4": "AMXInt4_MOE"}


def finish(**answer):
    print(json.dumps(answer), flush=True)


def unsupported(reason):
    finish(unsupported=reason)
    sys.exit(0)


def load_extension():
    """Its extension module for this processor, chosen by its own detection, without the package that imports torch."""
    spec = importlib.util.find_spec("kt_kernel")
    if spec is None:
        raise SystemExit(f"kt_layer.py: {sys.executable} has no kt_kernel")
    folder = pathlib.Path(spec.submodule_search_locations[0])
    detect_spec = importlib.util.spec_from_file_location("kt_cpu_detect", folder / "_cpu_detect.py")
    detect = importlib.util.module_from_spec(detect_spec)
    detect_spec.loader.exec_module(detect)
    extension, variant = detect.initialize()
    return extension, variant


class Memory:
    """Bytes at a stable address on huge pages."""

    def __init__(self, size):
        self.map = mmap.mmap(-1, max(size, 1))
        self.map.madvise(mmap.MADV_HUGEPAGE)
        self.anchor = ctypes.c_char.from_buffer(self.map)
        self.address = ctypes.addressof(self.anchor)

    def close(self):
        del self.anchor
        self.map.close()


class RepeatedFile:
    """Parts of a file one after the other in memory, over and over: many experts in the space of a few.

    The extension reads all experts from one stack; conversions of it need no copies of their own to read from.
    """

    PROT_READ, MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 1, 1, 2, 16, 32

    def __init__(self, path, first, stride, size, distinct, experts):
        if size % mmap.PAGESIZE or first % mmap.PAGESIZE or stride % mmap.PAGESIZE:
            unsupported(f"matrices of {size} bytes are no whole pages, which this harness maps")
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = ctypes.c_void_p
        self.libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                                   ctypes.c_long]
        self.libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self.size = size * experts
        self.address = self._map(None, self.size, self.MAP_PRIVATE | self.MAP_ANONYMOUS, -1, 0)
        with open(path, "rb") as file:
            for expert in range(experts):
                self._map(self.address + expert * size, size, self.MAP_SHARED | self.MAP_FIXED, file.fileno(),
                          first + expert % distinct * stride)

    def _map(self, address, size, flags, descriptor, offset):
        mapped = self.libc.mmap(address, size, self.PROT_READ, flags, descriptor, offset)
        if mapped in (None, ctypes.c_void_p(-1).value):
            raise SystemExit(f"kt_layer.py: mmap: {os.strerror(ctypes.get_errno())}")
        return mapped

    def close(self):
        self.libc.munmap(self.address, self.size)


def stored_stacks(path, gate_bytes, down_bytes, distinct, experts):
    """The experts of a file as three stacks [experts, rows, cols]: gate, up, down; experts repeat."""
    sizes = (gate_bytes, gate_bytes, down_bytes)
    stacks = [Memory(size * experts) for size in sizes]
    with open(path, "rb") as file:
        for expert in range(distinct):
            for stack, size in zip(stacks, sizes):
                stack.map[expert * size:(expert + 1) * size] = file.read(size)
    for stack, size in zip(stacks, sizes):
        for expert in range(distinct, experts):
            at = expert % distinct * size
            stack.map[expert * size:(expert + 1) * size] = stack.map[at:at + size]
    return stacks


class Engine:
    def __init__(self, extension, options, threads):
        self.options = options
        pool = extension.WorkerPoolConfig()
        pool.subpool_count, pool.subpool_numa_map, pool.subpool_thread_count = 1, [0], [threads]
        self.cpu = extension.CPUInfer(pool)
        self.config = self._config(extension)
        own = OWN_FORMS.get(options.form)
        self.expert_map = (ctypes.c_int64 * options.experts)(*range(options.experts))
        stacks = self._own_form_stacks() if own else self._stored_stacks(extension)
        gate, up, down = (stack.address for stack in stacks)
        self.config.gate_proj, self.config.up_proj, self.config.down_proj = gate, up, down
        self.moe = getattr(extension.moe, own or "MOE")(self.config)
        self._do(self.moe.load_weights_task(ctypes.addressof(self.expert_map)))
        for stack in stacks if own else []:
            stack.close()  # it keeps a copy in its own form; the llamafile backend may not, so that one stays
        self.stacks = stacks
        self._make_buffers()

    def _config(self, extension):
        o = self.options
        config = extension.moe.MOEConfig(o.experts, o.used, o.hidden, o.inter, 0)
        config.layer_idx = 0
        config.pool = self.cpu.backend_
        config.max_len = config.group_max_len = ROWS_MAX
        config.m_block, config.group_min_len = ROWS_BLOCK, TOKEN_BY_TOKEN_MAX
        return config

    def _stored_stacks(self, extension):
        o = self.options
        types = extension.kvcache.ggml_type.__members__
        missing = [name for name in (o.gate_type, o.down_type) if name.upper() not in types]
        if missing:
            unsupported(f"its llamafile backend has no type {missing[0]}")
        self.config.gate_type = self.config.up_type = types[o.gate_type.upper()]
        self.config.down_type = types[o.down_type.upper()]
        self.config.hidden_type = types["BF16"]
        gate_bytes, down_bytes = o.stored_bytes
        return stored_stacks(o.prefix + ".stored", gate_bytes, down_bytes, o.distinct, o.experts)

    def _own_form_stacks(self):
        """bf16 to convert from."""
        o = self.options
        size = o.hidden * o.inter * 2
        return [RepeatedFile(o.prefix + ".bf16", i * size, 3 * size, size, o.distinct, o.experts) for i in range(3)]

    def _do(self, task):
        self.cpu.submit(task)
        self.cpu.sync()

    def _make_buffers(self):
        o = self.options
        halves = memoryview(pathlib.Path(o.prefix + ".inputs").read_bytes()).cast("H")
        self.inputs = Memory(ROWS_MAX * o.hidden * 2)  # bf16: the upper halves of the floats, which are rounded already
        self.inputs.map[:] = halves[1::2].tobytes()
        self.outputs = Memory(ROWS_MAX * o.hidden * 2)
        self.ids = (ctypes.c_int64 * (ROWS_MAX * o.used))()
        self.weights_of_experts = (ctypes.c_float * (ROWS_MAX * o.used))(*([1.0 / o.used] * (ROWS_MAX * o.used)))
        self.rows = ctypes.c_int32(0)

    def run(self, rows, first):
        """Seconds of one layer; ids are set before the clock starts."""
        o = self.options
        chosen = list(range(first, first + o.used)) * rows
        self.ids[:len(chosen)] = chosen
        self.rows.value = rows
        task = self.moe.forward_task(ctypes.addressof(self.rows), o.used, ctypes.addressof(self.ids),
                                     ctypes.addressof(self.weights_of_experts), self.inputs.address,
                                     self.outputs.address, False)
        start = time.perf_counter()
        self.cpu.submit(task)
        self.cpu.sync()
        return time.perf_counter() - start

    def output(self, count):
        halves = struct.unpack(f"<{count}H", self.outputs.map[:count * 2])
        return list(struct.unpack(f"<{count}f", struct.pack(f"<{count}I", *(half << 16 for half in halves))))


class Options:
    def __init__(self, argv):
        if len(argv) != 12:
            raise SystemExit("kt_layer.py: expected eleven arguments, see the head of its source")
        self.prefix, self.gate_type, self.down_type, self.form = argv[1], argv[4], argv[5], argv[9]
        self.hidden, self.inter, self.distinct, self.experts, self.used = (int(argv[i]) for i in (2, 3, 6, 7, 8))
        self.threads = int(argv[10])
        file_bytes, down_bytes = os.path.getsize(self.prefix + ".stored") // self.distinct, int(argv[11])
        self.stored_bytes = (file_bytes - down_bytes) // 2, down_bytes


def serve(engine):
    """Answers `run THREADS ROWS RUNS_MIN SECONDS` and `check THREADS ROWS VALUES` until stdin ends."""
    o, first = engine.options, 0
    for line in sys.stdin:
        command, threads, rows, count, *seconds = line.split()
        if int(threads) != o.threads:
            raise SystemExit(f"kt_layer.py: started for {o.threads} threads, asked for {threads}")
        if command == "check":
            engine.run(int(rows), 0)
            finish(y=engine.output(int(count)))
            continue
        took, end = [], time.perf_counter() + float(seconds[0])
        while len(took) < int(count) or time.perf_counter() < end:
            took.append(engine.run(int(rows), first))
            first = (first + o.used) % o.experts
        finish(seconds=took)


def main(argv):
    # The extension reports on stdout; answers go to the original stdout, everything else to stderr.
    answers = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(answers, "w", buffering=1)
    options = Options(argv)
    extension, variant = load_extension()
    if options.inter % 256 and options.form not in OWN_FORMS:
        unsupported(f"its llamafile backend takes intermediate sizes that are multiples of 256, not {options.inter}")
    if options.form in OWN_FORMS and not hasattr(extension.moe, OWN_FORMS[options.form]):
        unsupported(f"its {variant} extension has no {OWN_FORMS[options.form]}")
    engine = Engine(extension, options, options.threads)
    finish(ready="kt-kernel", form=f"{options.form} ({variant} extension)")
    serve(engine)


if __name__ == "__main__":
    main(sys.argv)
