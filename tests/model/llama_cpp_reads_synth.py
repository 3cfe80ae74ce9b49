#!/usr/bin/env python3
"""Other programs must be able to read what tandem-model writes.

Makes small models of two families, opens them with the gguf package, compares the tensor types of the q4_K_M mix
with those llama.cpp's own quantizer chooses, and runs tokens through llama.cpp. Skips (77) where the packages are
not installed; TANDEM_ORACLE_PYTHON names an interpreter that has them.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

SKIP = 77


def find_packages():
    """Imports the packages, in another interpreter if need be."""
    try:
        import gguf  # noqa: F401
        import llama_cpp  # noqa: F401
    except ImportError as error:
        oracle = os.environ.get("TANDEM_ORACLE_PYTHON")
        if oracle is None or os.environ.get("TANDEM_ORACLE_TRIED"):
            print(f"skipped: {error}; set TANDEM_ORACLE_PYTHON")
            sys.exit(SKIP)
        environment = dict(os.environ, TANDEM_ORACLE_TRIED="1")
        sys.exit(subprocess.run([oracle, *sys.argv], env=environment, check=False).returncode)


def synth(program, config, kind, out, *more):
    subprocess.run([program, "synth", "--config", config, "--format", kind, "--container", "gguf",
                    "--out", out, *more], check=True, stdout=subprocess.DEVNULL)


def tensor_types(path):
    from gguf import GGUFReader
    return {t.name: (t.tensor_type.name, tuple(int(n) for n in t.shape)) for t in GGUFReader(path).tensors}


def decode(path):
    """Logits after five tokens. Extra buffer types are off: llama.cpp's AMX repacking crashes in virtual machines
    on its own files as well."""
    import llama_cpp
    import numpy
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = False
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    assert model, f"llama.cpp cannot load {path}"
    context_params = llama_cpp.llama_context_default_params()
    context_params.n_ctx, context_params.n_threads, context_params.n_threads_batch = 64, 1, 1
    context = llama_cpp.llama_init_from_model(model, context_params)
    assert context, f"llama.cpp cannot make a context for {path}"
    tokens = (llama_cpp.llama_token * 5)(0, 86, 106, 103, 34)
    result = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, 5))
    assert result == 0, f"llama_decode gave {result}"
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    count = llama_cpp.llama_vocab_n_tokens(vocabulary)
    logits = numpy.ctypeslib.as_array(llama_cpp.llama_get_logits(context), shape=(count,)).copy()
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    assert numpy.isfinite(logits).all(), "logits are not finite"
    # Normalised states times rows of deviation 1/sqrt(hidden) give logits of deviation about 1.
    assert 0.3 < logits.std() < 3.0, f"deviation of the logits {logits.std()}"
    return logits


def quantize(source, target):
    import llama_cpp
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M, 1
    assert llama_cpp.llama_model_quantize(source.encode(), target.encode(), params) == 0


def main():
    find_packages()
    import numpy
    program = sys.argv[1]
    configs = pathlib.Path(__file__).resolve().parent / "configs"
    v3, kimi = str(configs / "deepseek_v3_small.json"), str(configs / "kimi_k2_small.json")
    with tempfile.TemporaryDirectory() as folder:
        def at(name):
            return os.path.join(folder, name)
        for kind in ("bf16", "q4_K_M", "q8_0", "iq1_s"):
            synth(program, v3, kind, at(kind))
            decode(at(kind))
        synth(program, kimi, "q4_K_M", at("kimi"))
        decode(at("kimi"))
        # Old files' fused kv_b holds the same numbers as the split one: equal logits up to rounding.
        synth(program, v3, "bf16", at("fused"), "--fused-kv-b")
        split, fused = decode(at("bf16")), decode(at("fused"))
        difference = numpy.abs(split - fused).max()
        assert difference < 0.1, f"fused and split kv_b differ by {difference}"
        quantize(at("bf16"), at("quantized"))
        ours, theirs = tensor_types(at("q4_K_M")), tensor_types(at("quantized"))
        wrong = {name: (ours.get(name), theirs.get(name))
                 for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
        assert not wrong, f"types differ from llama.cpp's q4_K_M: {wrong}"
    print("llama.cpp reads and runs every file")


if __name__ == "__main__":
    main()
