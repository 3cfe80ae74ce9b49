"""Prints the tables of lib/tensor/iquant_grids.cc and their digests from the grids of the gguf package.

Every grid is a subset of all vectors of `dims` digits in base `levels`, and is sorted by the code
sum(digit_k * levels^k). One membership bit per code therefore says everything.

usage: python make_grid_bitmaps.py   (needs numpy and gguf)
"""

import hashlib

import gguf.quants
import numpy as np

GRIDS = ["IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"]


def membership_bitmap(codes: np.ndarray, n_codes: int) -> bytes:
    bits = np.zeros((n_codes + 7) // 8 * 8, dtype=np.uint8)
    bits[codes] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def print_words(bitmap: bytes) -> None:
    padded = bitmap + b"\0" * (-len(bitmap) % 8)
    words = np.frombuffer(padded, dtype="<u8")
    for i in range(0, len(words), 4):
        print("    " + ", ".join(f"0x{w:016x}" for w in words[i : i + 4]) + ",")


def main() -> None:
    for name in GRIDS:
        quant = getattr(gguf.quants, name)
        quant.init_grid()
        grid = quant.grid.reshape(quant.grid_shape)
        levels = [int(v) for v in quant.grid_map]
        digits = np.array([[levels.index(int(v)) for v in row] for row in grid])
        n_levels, dims = len(levels), digits.shape[1]
        codes = (digits * n_levels ** np.arange(dims)).sum(axis=1)
        assert (np.diff(codes) > 0).all(), name
        bitmap = membership_bitmap(codes, n_levels**dims)
        table = grid.astype(np.int8).tobytes()
        print(f"// {name}: {len(grid)} of {n_levels}^{dims}, levels {levels}, bitmap {len(bitmap)} bytes")
        print(f"// bitmap sha256 {hashlib.sha256(bitmap).hexdigest()}")
        print(f"// table  sha256 {hashlib.sha256(table).hexdigest()}")
        print_words(bitmap)
        print()


if __name__ == "__main__":
    main()
