#!/usr/bin/env python3
"""Makes fp8.safetensors: block-scaled e4m3 matrices with the f32 values torch gives them.

Run with an interpreter that has torch, safetensors and transformers; see MANIFEST. Deterministic.
"""

import argparse
import pathlib
import sys

import safetensors.torch
import torch


def scaled(shape, block, generator):
    """Random codes over the whole range (no NaN) and one positive scale per block, ragged at the edges."""
    codes = torch.randint(0, 256, shape, generator=generator, dtype=torch.int32)
    codes[(codes & 0x7F) == 0x7F] -= 1
    weight = codes.to(torch.uint8).view(torch.float8_e4m3fn)
    blocks = [-(-n // b) for n, b in zip(shape, block)]
    scale = torch.rand(blocks, generator=generator) * 1e-3 + 1e-5
    return weight, scale


def dequantize(weight, scale, block):
    """weight_scale_inv multiplies every value of its block, in f32."""
    rows, cols = weight.shape
    full = scale.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:rows, :cols]
    return weight.to(torch.float32) * full


def check_against_transformers(weight, scale, expected):
    """transformers' own dequantization wants whole blocks; it must agree where it applies."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    found = Fp8Dequantize(None)._dequantize_one(weight, scale)
    if not torch.equal(found, expected):
        raise SystemExit("transformers dequantizes differently")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent,
                        help="folder to write to")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(20261125)
    tensors = {}
    for name, shape, block in (("whole", (48, 64), (16, 16)), ("ragged", (37, 75), (16, 32))):
        weight, scale = scaled(shape, block, generator)
        expected = dequantize(weight, scale, block)
        if name == "whole":
            check_against_transformers(weight, scale, expected)
        tensors[f"{name}.weight"] = weight
        tensors[f"{name}.weight_scale_inv"] = scale
        tensors[f"{name}.expected"] = expected
    args.out.mkdir(parents=True, exist_ok=True)
    out = args.out / "fp8.safetensors"
    safetensors.torch.save_file(tensors, out)
    print(out, out.stat().st_size, "bytes, torch", torch.__version__, file=sys.stderr)


if __name__ == "__main__":
    main()
