"""Pooling and the mean."""

from __future__ import annotations

import numpy as np

from tflite_export.graph import fixed_point
from tflite_export.operators.operands import Operands
from tflite_export.operators.windows import windows


def max_pool_2d(operands: Operands) -> np.ndarray:
    lowest = int(np.iinfo(operands.output.dtype).min)
    return _windows(operands, operands.arrays[0], fill=lowest).max(axis=(-2, -1))


def average_pool_2d(operands: Operands) -> np.ndarray:
    """Mean of the raw integers inside the image; a half goes away from zero."""
    values = operands.arrays[0].astype(np.int64)
    total = fixed_point.wrapped(_windows(operands, values, fill=0).sum(axis=(-2, -1)))
    inside = np.ones((1, *values.shape[1:3], 1), np.int64)
    count = _windows(operands, inside, fill=0).sum(axis=(-2, -1))
    return _rounded_mean(total, count).astype(operands.output.dtype)


def _windows(operands: Operands, values: np.ndarray, *, fill: int) -> np.ndarray:
    attributes = operands.operator.attributes
    size = (attributes["filter_h"], attributes["filter_w"])
    return windows(values, size, attributes, fill=fill)


def _rounded_mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    half = np.where(total > 0, count // 2, -(count // 2))
    return fixed_point.truncated_divide(total + half, count)


def mean(operands: Operands) -> np.ndarray:
    """Sum minus the zero points, times a multiplier that holds the division by the count."""
    axes = tuple(operands.operator.attributes["axes"])
    keep = operands.operator.attributes["keep_dims"]
    centred = operands.centred()
    total = centred.sum(axis=axes, keepdims=keep)
    count = int(np.prod([centred.shape[axis] for axis in axes]))
    fraction, exponent = fixed_point.quantize_multiplier(operands.scale() / operands.output_scale)
    return operands.finished(_divided(total, int(fraction), int(exponent), count))


def _divided(total: np.ndarray, fraction: int, exponent: int, count: int) -> np.ndarray:
    """total * fraction * 2^(exponent - 31) / count, with the division folded into the fraction."""
    shift = min(count.bit_length() - 1, 32, 31 + exponent)
    folded = (fraction << shift) // count
    exponent -= shift
    widened = fixed_point.wrapped(total << min(max(exponent, 0), 31))
    product = fixed_point.doubling_high_multiply(widened, folded)
    return fixed_point.rounding_right_shift(product, max(-exponent, 0))
