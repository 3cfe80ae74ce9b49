"""Writes the seeds of corpus/: small safetensors files that reach every kind of field and complaint.

    python3 tests/fuzz/safetensors/make_corpus.py

Seeds named found-* came out of fuzzing; the script leaves them alone.
"""

import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"


def safetensors(header: str, data_bytes: int) -> bytes:
    encoded = header.encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + bytes(i % 251 for i in range(data_bytes))


def tensor(dtype: str, shape: list, begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def main() -> None:
    fp8 = {"w": tensor("F8_E4M3", [4, 6], 0, 24), "w_scale_inv": tensor("F32", [1, 2], 24, 32)}
    seeds = {
        "empty_model": safetensors("{}", 0),
        "metadata": safetensors(json.dumps({"__metadata__": {"format": "pt", "a": "\u2603\n"}}), 0),
        "fp8": safetensors(json.dumps(fp8), 32),
        "scalar": safetensors(json.dumps({"s": tensor("BF16", [], 0, 2)}), 2),
        "types": safetensors(json.dumps({"a": tensor("F16", [2], 0, 4), "b": tensor("I32", [1], 4, 8)}), 8),
        "unknown_type": safetensors(json.dumps({"a": tensor("I64", [1], 0, 8)}), 8),
        "gap": safetensors(json.dumps({"a": tensor("F32", [1], 0, 4), "b": tensor("F32", [1], 8, 12)}), 12),
        "overlap": safetensors(json.dumps({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [1], 4, 8)}), 8),
        "overflow": safetensors(json.dumps({"a": tensor("F32", [2**62, 4], 0, 0)}), 0),
        "twice": safetensors('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":1}', 4),
        "escapes": safetensors('{"\\u0061":{"\\u0064type":"F32","shape":[1],"data_offsets":[0,4]}}', 4),
        "cut_off": safetensors(json.dumps(fp8), 32)[:-8],
        "long_header": struct.pack("<Q", 1 << 40) + b"{}",
    }
    for name, seed in seeds.items():
        (CORPUS / name).write_bytes(seed)


if __name__ == "__main__":
    main()
