"""Writes the seeds of corpus/: small GGUF files that reach every kind of value, tensor type and complaint.

    python3 tests/fuzz/gguf/make_corpus.py

Seeds named found-* came out of fuzzing; the script leaves them alone.
"""

import pathlib
import struct

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"
# ggml type id: (values, bytes) of a block
TYPES = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 16: (256, 66), 17: (256, 74), 18: (256, 98),
    19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 26: (1, 4), 29: (256, 56), 30: (1, 2),
}
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def number(kind: int) -> bytes:
    return struct.pack("<" + NUMBERS[kind], 1)


def array(kind: int, count: int, elements: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + elements


def tensor_bytes(dims: list[int], kind: int) -> int:
    elems, size = TYPES[kind]
    total = dims[0] // elems * size
    for dim in dims[1:]:
        total *= dim
    return total


def gguf(keys: list[bytes], tensors: list[tuple], version: int = 3, alignment: int = 32) -> bytes:
    """`tensors`: (name, dims contiguous first, type id)."""
    infos, data = b"", b""
    for name, dims, kind in tensors:
        infos += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        infos += struct.pack("<IQ", kind, len(data))
        size = tensor_bytes(dims, kind)
        data += bytes((7 * i + kind) % 256 for i in range(size)) + b"\0" * (-size % alignment)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys) + infos
    return head + b"\0" * (-len(head) % alignment) + data


def main() -> None:
    numbers = [key(f"n{k}", k, number(k)) for k in NUMBERS]
    arrays = [key(f"a{k}", 9, array(k, 2, number(k) * 2)) for k in NUMBERS]
    strings = [key("s", 8, text("general")), key("as", 9, array(8, 2, text("a") + text("")))]
    seeds = {
        "empty_model": gguf([], []),
        "numbers": gguf(numbers, []),
        "arrays": gguf(arrays, []),
        "strings": gguf(strings, []),
        "version_2": gguf(strings, [("t", [8], 0)], version=2),
        "alignment_64": gguf([key("general.alignment", 4, struct.pack("<I", 64))], [("t", [8], 0), ("u", [8], 0)],
                             alignment=64),
        "split_part": gguf([key("split.no", 2, struct.pack("<H", 1)), key("split.count", 2, struct.pack("<H", 3)),
                            key("split.tensors.count", 5, struct.pack("<i", 9))], [("t", [8], 0)]),
        "four_dimensions": gguf([], [("experts", [32, 2, 3, 1], 8)]),
        "nested_array": gguf([key("a", 9, array(9, 1, array(0, 1, b"x")))], []),
        "cut_off": gguf(strings, [("t", [64, 2], 8)])[:-40],
        "overlap": gguf([], [("a", [8], 0), ("b", [8], 0)])[:-32],
    }
    for kind, (elems, _) in TYPES.items():
        seeds[f"type_{kind}"] = gguf([], [("t", [elems, 2], kind)])
    for name, seed in seeds.items():
        (CORPUS / name).write_bytes(seed)


if __name__ == "__main__":
    main()
