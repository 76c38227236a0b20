"""The integers that weights and activations of a width may be."""

from __future__ import annotations

from tflite_export.graph.codes import lowest_code

#: Width of inputs that number the rows of a table.
INDEX_BITS = 32


def weight_range(bits: int) -> tuple[int, int]:
    """Signed integer range of weights; 8 bits is narrow, as TensorFlow Lite's kernels require."""
    top = 2 ** (bits - 1) - 1
    return (-top if bits == 8 else -top - 1), top


def activation_range(bits: int) -> tuple[int, int]:
    """Lowest and highest integer of an activation tensor of `bits` width: 4 to 8, 16 or 32.

    Up to 8 bits these are the highest codes of int8, where kernels saturate.
    """
    if bits > 8:
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return lowest_code(bits), 127


def activation_dtype(bits: int) -> str:
    """Container of an activation tensor of `bits` width."""
    return {16: "int16", INDEX_BITS: "int32"}.get(bits, "int8")


def bias_dtype(activation_dtype: str) -> str:
    """Container of a bias, whose kernel computes in an activation type."""
    return {"int8": "int32", "int16": "int64"}[activation_dtype]
