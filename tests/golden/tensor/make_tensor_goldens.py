"""Makes the golden vectors of lib/tensor and lib/model: what other implementations read and write.

    python tests/golden/tensor/make_tensor_goldens.py [--out FOLDER]

Needs numpy, gguf, safetensors and torch (versions end up in MANIFEST.json). Everything is deterministic: random bytes come
from SplitMix64 with fixed seeds, which the C++ tests repeat.

<type>.bin       raw blocks, then their values as f32, of gguf.quants.dequantize
q8_0_encode.bin  f32 values, then the bytes gguf.quants.quantize makes of them
f8_e4m3.bin      the f32 value of each of the 256 codes, by torch
tiny*.gguf       written by gguf.GGUFWriter; tiny.safetensors by safetensors.torch
MANIFEST.json    what the files hold, and sha256 digests of results too large to keep
"""

import argparse
import datetime
import hashlib
import json
import pathlib
import shutil
import sys
import tempfile

import gguf
import numpy as np
import safetensors
import safetensors.torch
import torch
from gguf import GGMLQuantizationType as T
from gguf import quants

HERE = pathlib.Path(__file__).resolve().parent
MANY_BLOCKS = 2048  # enough for every index of every codebook to occur

# type: (f16 fields as byte offsets of their high bytes). Clearing bit 6 there keeps a random f16 finite.
TYPES = {
    "q8_0": [1], "q4_0": [1], "q4_1": [1, 3], "q5_0": [1], "q5_1": [1, 3], "iq4_nl": [1],
    "q2_K": [81, 83], "q3_K": [109], "q4_K": [1, 3], "q5_K": [1, 3], "q6_K": [209],
    "iq1_s": [1], "iq1_m": [55], "iq2_xxs": [1], "iq2_xs": [1], "iq2_s": [1],
    "iq3_xxs": [1], "iq3_s": [1], "iq4_xs": [1],
}
# f16 scales worth a block of their own: 0, -0, smallest and largest subnormal, smallest normal, 1, -1, largest, -largest.
SCALES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF]


def splitmix64(seed: int, count: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, count + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def random_bytes(seed: int, count: int) -> np.ndarray:
    return splitmix64(seed, (count + 7) // 8).view(np.uint8)[:count].copy()


def random_blocks(name: str, seed: int, count: int) -> np.ndarray:
    block_bytes = gguf.GGML_QUANT_SIZES[T[name.upper()]][1]
    blocks = random_bytes(seed, count * block_bytes).reshape(count, block_bytes)
    for offset in TYPES[name]:
        blocks[:, offset] &= 0xBF
    return blocks


def set_scale(name: str, block: np.ndarray, scale: int) -> None:
    if name == "iq1_m":  # a nibble of the scale in each of the four scale words
        words = block[48:56].view("<u2")
        for i in range(4):
            words[i] = (words[i] & 0x0FFF) | (((scale >> (4 * i)) & 15) << 12)
        return
    for offset in TYPES[name]:
        block[offset - 1 : offset + 1] = np.frombuffer(scale.to_bytes(2, "little"), dtype=np.uint8)


def golden_blocks(name: str, seed: int) -> np.ndarray:
    """One block for each scale, one of all-zero and one of all-one codes, two free ones."""
    blocks = random_blocks(name, seed, len(SCALES) + 4)
    for block, scale in zip(blocks, SCALES):
        set_scale(name, block, scale)
    for block, fill in ((blocks[-4], 0x00), (blocks[-3], 0xFF)):
        block[:] = fill
        set_scale(name, block, 0x3C00)
    return blocks


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def make_types(out: pathlib.Path, manifest: dict) -> None:
    for seed, (name, offsets) in enumerate(TYPES.items(), start=1):
        blocks = golden_blocks(name, seed)
        values = quants.dequantize(blocks, T[name.upper()]).astype(np.float32)
        (out / f"{name}.bin").write_bytes(blocks.tobytes() + values.tobytes())
        many = quants.dequantize(random_blocks(name, 1000 + seed, MANY_BLOCKS), T[name.upper()])
        manifest["types"][name] = {
            "blocks": len(blocks),
            "many_seed": 1000 + seed,
            "many_blocks": MANY_BLOCKS,
            "f16_high_bytes": offsets,
            "many_sha256": sha256(many.astype(np.float32)),
        }


def canonical_nan(values: np.ndarray) -> np.ndarray:
    bits = values.astype(np.float32).view(np.uint32).copy()
    bits[np.isnan(values)] = 0x7FC00000
    return bits


def q8_0_inputs() -> np.ndarray:
    rng = splitmix64(77, 64 * 32)
    # Sign and mantissa at random, exponents 2^-20..2^11 per block of 32.
    exponents = (107 + splitmix64(78, 64) % np.uint64(32)).astype(np.uint32)
    bits = (rng.astype(np.uint32) & np.uint32(0x807FFFFF)) | np.repeat(exponents << np.uint32(23), 32)
    rows = bits.view(np.float32).reshape(64, 32).copy()
    rows[0] = 0
    rows[1] = np.arange(32) - 15.5  # halves of the step once 127 is in the block
    rows[1, 0] = 127
    rows[2] = np.float32(-127) + np.arange(32) * np.float32(0.5)
    rows[3] = np.float32(1e-30)  # the f16 scale underflows to zero
    rows[4] = np.float32(1e-6) * np.arange(-16, 16)  # the f16 scale is subnormal
    rows[5] = np.float32(8.0e6) * np.sign(np.arange(32) - 15.5)  # the largest scales
    rows[6] = 0
    rows[6, 31] = np.float32(-3.25)
    return rows.astype(np.float32)


def make_floats(out: pathlib.Path, manifest: dict) -> None:
    rows = q8_0_inputs()
    encoded = quants.quantize(rows, T.Q8_0)
    (out / "q8_0_encode.bin").write_bytes(rows.tobytes() + encoded.tobytes())
    manifest["q8_0_encode"] = {"blocks": len(rows)}

    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).to(torch.float32)
    (out / "f8_e4m3.bin").write_bytes(codes.numpy().tobytes())

    bits = splitmix64(99, 1 << 20).astype(np.uint32)
    floats = bits.view(np.float32)
    not_nan = np.where(np.isnan(floats), np.float32(0), floats)
    # Two in three of all bit patterns are beyond f16; fold the exponents around 1 for the rest of the test.
    near = ((bits & np.uint32(0x807FFFFF)) | ((np.uint32(100) + (bits >> np.uint32(23)) % np.uint32(45)) << np.uint32(23))).view(
        np.float32
    )
    f8 = torch.from_numpy(np.clip(near, -448, 448)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    with np.errstate(over="ignore"):
        manifest["floats"] = {
            "seed": 99,
            "count": 1 << 20,
            "f16_decode_all_sha256": sha256(canonical_nan(np.arange(65536, dtype=np.uint16).view(np.float16))),
            "bf16_decode_all_sha256": sha256(
                canonical_nan(quants.dequantize(np.arange(65536, dtype=np.uint16).view(np.uint8), T.BF16))
            ),
            "f16_encode_sha256": sha256(not_nan.astype(np.float16)),
            "f16_encode_near_sha256": sha256(near.astype(np.float16)),
            "bf16_encode_sha256": sha256(quants.quantize(floats, T.BF16)),
            "f8_e4m3_encode_near_clipped_sha256": sha256(f8),
        }


def tensor_entry(name: str, dtype: str, shape: list[int], data: bytes) -> dict:
    return {"name": name, "dtype": dtype, "shape": shape, "sha256": hashlib.sha256(data).hexdigest()}


def add_tensors(writer: gguf.GGUFWriter) -> list[dict]:
    entries = []
    for name, dtype, shape in [
        ("token_embd.weight", "f16", [5, 64]),
        ("blk.0.attn_norm.weight", "f32", [64]),
        ("blk.0.ffn_gate_exps.weight", "q8_0", [3, 2, 64]),
        ("blk.0.ffn_down_exps.weight", "q4_K", [3, 2, 256]),
        ("blk.1.ffn_down_exps.weight", "iq1_s", [2, 3, 1, 256]),
        ("output.weight", "bf16", [5, 64]),
    ]:
        ggml = T[dtype.upper()]
        elems, size = gguf.GGML_QUANT_SIZES[ggml]
        row = shape[-1] // elems * size
        raw = random_bytes(len(entries) + 500, int(np.prod(shape[:-1])) * row).reshape(*shape[:-1], row)
        if dtype == "f32":
            writer.add_tensor(name, raw.view(np.float32))
        elif dtype == "f16":
            writer.add_tensor(name, raw.view(np.float16))
        else:
            writer.add_tensor(name, raw, raw_dtype=ggml)
        entries.append(tensor_entry(name, dtype, shape, raw.tobytes()))
    return entries


def write_gguf(path: pathlib.Path, **options) -> list[dict]:
    writer = gguf.GGUFWriter(path, "deepseek2", **options)
    writer.add_block_count(2)
    writer.add_name("tiny")
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -30000)
    writer.add_int32("test.i32", -2000000000)
    writer.add_uint64("test.u64", 2**64 - 1)
    writer.add_int64("test.i64", -(2**62))
    writer.add_float32("test.f32", 0.1)
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "grüße \u2603")
    writer.add_array("test.ints", [1, -2, 3])
    writer.add_array("test.floats", [0.5, -0.25])
    writer.add_array("test.bools", [True, False, True])
    writer.add_array("test.strings", ["a", "", "\u2603"])
    entries = add_tensors(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return entries


def make_containers(out: pathlib.Path, manifest: dict) -> None:
    manifest["gguf"] = write_gguf(out / "tiny.gguf")
    with tempfile.TemporaryDirectory() as folder:
        write_gguf(pathlib.Path(folder) / "tiny_split.gguf", split_max_tensors=2)
        parts = sorted(pathlib.Path(folder).glob("*.gguf"))
        for part in parts:
            shutil.copy(part, out / part.name)
    manifest["gguf_parts"] = [part.name for part in parts]

    tensors = {
        "model.embed_tokens.weight": torch.from_numpy(random_bytes(600, 5 * 64 * 2).view(np.int16)).view(torch.bfloat16).reshape(5, 64),
        "model.layers.0.mlp.gate_proj.weight": torch.from_numpy(random_bytes(601, 130 * 200)).view(torch.float8_e4m3fn).reshape(130, 200),
        "model.layers.0.mlp.gate_proj.weight_scale_inv": torch.tensor([[0.5, 0.25], [2.0, 1.0]], dtype=torch.float32),
        "model.norm.weight": torch.from_numpy(random_bytes(602, 64 * 2).view(np.float16)),
        "position_ids": torch.arange(7, dtype=torch.int32),
        "scalar": torch.tensor(1.5, dtype=torch.float32),
    }
    safetensors.torch.save_file(tensors, out / "tiny.safetensors", metadata={"format": "pt"})
    dtypes = {
        torch.bfloat16: "bf16", torch.float8_e4m3fn: "f8_e4m3", torch.float32: "f32", torch.float16: "f16",
        torch.int32: "i32",
    }
    manifest["safetensors"] = [
        tensor_entry(n, dtypes[t.dtype], list(t.shape), t.reshape(-1).view(torch.uint8).numpy().tobytes())
        for n, t in tensors.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=HERE, help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    manifest = {
        "command": "python tests/golden/tensor/make_tensor_goldens.py",
        "date": datetime.date.today().isoformat(),
        "python": sys.version.split()[0],
        "packages": {
            "gguf": __import__("importlib.metadata").metadata.version("gguf"),
            "numpy": np.__version__,
            "safetensors": safetensors.__version__,
            "torch": torch.__version__,
        },
        "types": {},
    }
    make_types(out, manifest)
    make_floats(out, manifest)
    make_containers(out, manifest)
    (out / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
