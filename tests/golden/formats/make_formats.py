#!/usr/bin/env python3
"""Makes formats.safetensors: what others compute for the formats of the GPU worker's linear layers.

e4m3: torch's conversion of every bf16 number. fp8: matrices in blocks of 128x128 as DeepSeek ships
them, with transformers' dequantization (torch's where a block is ragged), inputs quantized per 128
columns by torch, and the product in float64. Marlin: codes and scales permuted and packed by vLLM's
functions, taken from an unpacked wheel (pip download --no-deps vllm==0.6.3; unzip) and run alone,
because importing the package needs a GPU build. Run with an interpreter that has torch, safetensors
and transformers; see MANIFEST. Deterministic.
"""

import argparse
import ast
import pathlib
import sys
import typing

import numpy
import safetensors.torch
import torch

BLOCK = 128
MARLIN = [(4, 128, 256, 128), (4, 64, 128, 64), (8, 128, 256, 64), (8, 64, 128, 192),
          (4, 128, 128, 64)]   # bits, group, inputs, outputs; the last has one group alone


def conversions():
    """e4m3 of the bf16 numbers 0x0000 to 0x7fff; the other half must be their negatives."""
    bits = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    codes = bits.view(torch.bfloat16).to(torch.float32).to(torch.float8_e4m3fn).view(torch.uint8)
    assert torch.equal(codes[:32768] | 0x80, codes[32768:])
    return codes[:32768].view(torch.float8_e4m3fn).clone()


def scaled(shape, generator):
    codes = torch.randint(0, 256, shape, generator=generator, dtype=torch.int32)
    codes[(codes & 0x7F) == 0x7F] -= 1
    blocks = [-(-n // BLOCK) for n in shape]
    scale = torch.rand(blocks, generator=generator) * 1e-3 + 1e-5
    return codes.to(torch.uint8).view(torch.float8_e4m3fn), scale


def dequantize(weight, scale):
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    rows, cols = weight.shape
    full = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:rows, :cols]
    expected = weight.to(torch.float32) * full
    if rows % BLOCK == 0 and cols % BLOCK == 0:
        found = Fp8Dequantize(None)._dequantize_one(weight, scale)
        assert torch.equal(found, expected), "transformers dequantizes differently"
        return found
    return expected


def quantize_inputs(x):
    """DeepSeek's act_quant: max / 448 over runs of 128 columns; a run of zeros stays zeros."""
    codes, scales = [], []
    for run in x.split(BLOCK, dim=1):
        scale = run.abs().amax(dim=1) / 448.0
        divisor = torch.where(scale == 0, torch.ones_like(scale), scale)
        codes.append((run / divisor[:, None]).to(torch.float8_e4m3fn))
        scales.append(scale)
    return torch.cat([c.view(torch.uint8) for c in codes], 1), torch.stack(scales, 1)


def fp8_tensors(generator):
    tensors = {}
    for name, shape in (("whole", (256, 256)), ("ragged", (136, 200))):
        weight, scale = scaled(shape, generator)
        x = torch.randn((6, shape[1]), generator=generator)
        x[1, 5] = 300.0
        x[2, :BLOCK] = 0.0
        x[3] *= torch.exp(torch.randn((shape[1],), generator=generator) * 4)
        x = x.to(torch.bfloat16).to(torch.float32)
        codes, scales = quantize_inputs(x)
        expected = dequantize(weight, scale)
        full = scales.repeat_interleave(BLOCK, 1)[:, :shape[1]].to(torch.float64)
        numbers = codes.view(torch.float8_e4m3fn).to(torch.float64)
        wide = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        w = weight.to(torch.float64) * wide[:shape[0], :shape[1]].to(torch.float64)
        product = (numbers * full) @ w.T
        tensors |= {f"{name}.weight": weight, f"{name}.weight_scale_inv": scale,
                    f"{name}.dequantized": expected, f"{name}.x": x,
                    f"{name}.x_codes": codes.view(torch.float8_e4m3fn),
                    f"{name}.x_scales": scales, f"{name}.y": product.to(torch.float32),
                    f"{name}.y_magnitude": ((numbers * full).abs() @ w.abs().T).to(torch.float32)}
    return tensors


def functions_of(path, names, known):
    """Functions `names` of a Python file, without running the rest of it."""
    tree = ast.parse(path.read_text())
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in names]
    assert len(found) == len(names), f"{path} lacks one of {names}"
    for function in found:
        function.returns = None
        for argument in function.args.args:
            argument.annotation = None
    exec(compile(ast.Module(found, []), str(path), "exec"), known)
    return known


def vllm_functions(folder):
    utils = folder / "vllm/model_executor/layers/quantization/utils"
    known = {"np": numpy, "torch": torch, "List": typing.List, "GPTQ_MARLIN_TILE": 16}
    functions_of(utils / "quant_utils.py", {"get_pack_factor"}, known)
    functions_of(utils / "marlin_utils.py", {"get_scale_perms", "marlin_permute_scales"}, known)
    return functions_of(utils / "marlin_utils_test.py",
                        {"get_weight_perm", "marlin_permute_weights", "marlin_weights"}, known)


def lcg(count, bits):
    """The top `bits` of a linear congruential generator's states; the test has the same one."""
    state, out = 1, numpy.empty(count, numpy.int64)
    for i in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        out[i] = state >> (32 - bits)
    return out


def marlin_tensors(vllm):
    tensors = {}
    for bits, group, inputs, outputs in MARLIN:
        codes = torch.from_numpy(lcg(outputs * inputs, bits)).reshape(outputs, inputs)
        # Any 15 bits are a scale to be moved.
        scales = torch.from_numpy(lcg(outputs * inputs // group, 15)).reshape(outputs, -1)
        packed = vllm["marlin_weights"](codes.T.contiguous(), inputs, outputs, bits,
                                        vllm["get_weight_perm"](bits))
        moved = vllm["marlin_permute_scales"](scales.T.contiguous(), inputs, outputs, group)
        name = f"marlin{bits}.{group}.{inputs}.{outputs}"
        tensors[f"{name}.words"] = packed.to(torch.int32).contiguous()
        tensors[f"{name}.scales"] = moved.to(torch.int32).contiguous()
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--vllm", type=pathlib.Path, required=True, help="unpacked wheel of vLLM")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent,
                        help="folder to write to")
    args = parser.parse_args()
    tensors = {"e4m3.of_bf16": conversions()}
    tensors |= fp8_tensors(torch.Generator().manual_seed(20261125))
    tensors |= marlin_tensors(vllm_functions(args.vllm))
    args.out.mkdir(parents=True, exist_ok=True)
    out = args.out / "formats.safetensors"
    safetensors.torch.save_file(tensors, out)
    print(out, out.stat().st_size, "bytes, torch", torch.__version__, file=sys.stderr)


if __name__ == "__main__":
    main()
