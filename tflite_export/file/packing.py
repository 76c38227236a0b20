"""Sub-byte containers: two 4-bit or four 2-bit signed integers a byte, lowest bits first."""

from __future__ import annotations

import numpy as np

#: Container type -> bits of one element.
CONTAINER_BITS = {"int2": 2, "int4": 4, "int8": 8, "int16": 16, "int32": 32, "int64": 64}


def pack(values: np.ndarray, *, bits: int) -> np.ndarray:
    """Packs integers in row-major order; the last byte is padded with zeros.

    Args:
        values: any integer type; must lie in the signed range of `bits`.
        bits: 2 or 4.

    Returns:
        uint8, `ceil(values.size * bits / 8)` bytes.
    """
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    flat = np.asarray(values).reshape(-1)
    if flat.size and not (low <= flat.min() and flat.max() <= high):
        raise ValueError(f"values must lie in [{low}, {high}] to fit {bits} bits")
    each = 8 // bits
    padded = np.zeros(-(-flat.size // each) * each, np.uint8)
    padded[: flat.size] = flat.astype(np.int8).view(np.uint8) & (2**bits - 1)
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(bits)
    return np.bitwise_or.reduce(padded.reshape(-1, each) << shifts, axis=1).astype(np.uint8)


def unpack(packed: np.ndarray, *, bits: int, count: int) -> np.ndarray:
    """Inverse of `pack`: int8, the first `count` values, sign extended."""
    each = 8 // bits
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(bits)
    fields = (np.asarray(packed, np.uint8)[:, None] >> shifts) & np.uint8(2**bits - 1)
    sign = 2 ** (bits - 1)
    return ((fields.reshape(-1)[:count] ^ sign).astype(np.int16) - sign).astype(np.int8)
