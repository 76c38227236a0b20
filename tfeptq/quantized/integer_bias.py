"""Biases as the integers that ship: in units of input scale times weight scale, in float64."""

from __future__ import annotations

import numpy as np

from tflite_export.graph import limits
from tflite_export.graph.fixed_point import quantize_multiplier


def integer_bias(
    bias: np.ndarray, unit: np.ndarray, multiplier: np.ndarray, sums: np.ndarray, *, dtype: str
) -> np.ndarray:
    """int64 biases, one an output channel.

    Where the kernel could not hold one, the nearest that it can: that far away every input gives
    the same, saturated output, which `tfeptq.freeze.kernel_scales` sees to.

    Args:
        bias: float.
        unit: input scale times weight scale, float64, one a channel.
        multiplier: unit over output scale, in the same shape.
        sums: largest magnitude of the sum of products of each channel, whatever comes in.
        dtype: of the activations.
    """
    largest = np.maximum(largest_total(multiplier, dtype=dtype) - sums, 0)
    integers = np.round(np.asarray(bias, np.float64) / unit)
    return np.clip(integers, -largest, largest).astype(np.int64)


def largest_total(multiplier: np.ndarray, *, dtype: str) -> np.ndarray:
    """Largest sum of products and bias that a weighted kernel can hold and rescale, int64."""
    multiplier = np.asarray(multiplier, np.float64)
    if dtype == "int16":
        rescalable = limits.RESULT / multiplier
    else:
        _, exponent = quantize_multiplier(multiplier)
        rescalable = limits.RESULT / 2.0 ** np.maximum(exponent, 0)
    return np.floor(np.minimum(rescalable, float(limits.ACCUMULATOR[dtype]))).astype(np.int64)
