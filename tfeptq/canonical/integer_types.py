"""The integers that weights and activations of a width may be."""

from __future__ import annotations

from tflite_export.graph.codes import lowest_code


def weight_range(bits: int) -> tuple[int, int]:
    """Signed integer range of weights; 8 bits is narrow, as TensorFlow Lite's kernels require."""
    top = 2 ** (bits - 1) - 1
    return (-top if bits == 8 else -top - 1), top


def activation_range(bits: int) -> tuple[int, int]:
    """Lowest and highest integer of an activation tensor of `bits` width, 4 to 8 or 16.

    Up to 8 bits these are the highest codes of int8, where kernels saturate.
    """
    return (-(2**15), 2**15 - 1) if bits == 16 else (lowest_code(bits), 127)


def activation_dtype(bits: int) -> str:
    """Container of an activation tensor of `bits` width."""
    return "int16" if bits == 16 else "int8"
