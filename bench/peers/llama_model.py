#!/usr/bin/env python3
"""A whole model on llama.cpp, driven over stdin by bench/run model: `prefill N` and `decode N`.

Run by the Python of the environment that has llama-cpp-python. Arguments: GGUF file, threads, form: `stored` computes
from the blocks as the file has them, `own` lets it repack weights into buffers of its own (AMX, CPU_REPACK).
"""

import json
import os
import random
import sys
import time

DECODE_PROMPT = 8  # tokens in front of a decode; not counted
CONTEXT = 1024


def finish(answers, **answer):
    print(json.dumps(answer), file=answers, flush=True)


class Model:
    def __init__(self, path, threads, form):
        import llama_cpp
        self.lib = llama_cpp
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.use_extra_bufts = form == "own"
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise SystemExit(f"llama_model.py: llama.cpp cannot load {path}")
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx, wanted.n_batch, wanted.n_ubatch = CONTEXT, CONTEXT, 512  # 512: its own default
        wanted.n_threads = wanted.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, wanted)
        if not self.context:
            raise SystemExit(f"llama_model.py: llama.cpp cannot make a context for {path}")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.random = random.Random(1)

    def _feed(self, count):
        """Random tokens as one batch; returns when the last one's logits are there."""
        low, high = self.vocabulary // 8, self.vocabulary // 2
        tokens = (self.lib.llama_token * count)(*(self.random.randint(low, high) for _ in range(count)))
        if self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(tokens, count)) != 0:
            raise SystemExit("llama_model.py: llama_decode failed")
        self.lib.llama_synchronize(self.context)

    def prefill(self, count):
        self.lib.llama_memory_clear(self.memory, True)
        start = time.perf_counter()
        self._feed(count)
        return time.perf_counter() - start

    def decode(self, count):
        """The next token is random, not sampled: less work than an answer needs."""
        self.lib.llama_memory_clear(self.memory, True)
        self._feed(DECODE_PROMPT)
        start = time.perf_counter()
        for _ in range(count):
            self._feed(1)
        return time.perf_counter() - start


def main(argv):
    if len(argv) != 4:
        raise SystemExit("llama_model.py: expected a GGUF file, a number of threads, and stored or own")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the library may talk; answers have a stream of their own
    model = Model(argv[1], int(argv[2]), argv[3])
    finish(answers, ready="llama.cpp", form=argv[3])
    for line in sys.stdin:
        command, count = line.split()
        seconds = {"prefill": model.prefill, "decode": model.decode}[command](int(count))
        finish(answers, seconds=seconds, tokens=int(count))


if __name__ == "__main__":
    main(sys.argv)
