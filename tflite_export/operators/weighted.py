"""Convolution, depthwise convolution and fully connected layers.

Sums are exact: products of int16 and int8 stay below 2^53 in float64, which lets BLAS do the work.
Those of int8 activations then wrap around as in the int32 registers of the kernels; that they never
do in a graph that was frozen is proven in `tflite_export.graph.proofs`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tflite_export.graph import fixed_point
from tflite_export.operators.operands import Operands
from tflite_export.operators.windows import windows


def conv_2d(operands: Operands) -> np.ndarray:
    """Weights (out, H, W, in)."""
    weights = operands.arrays[1]
    outputs, height, width, _ = weights.shape
    view = _windows(operands, (height, width))
    patches = view.transpose(0, 1, 2, 4, 5, 3).reshape(*view.shape[:3], -1)
    return _requantized(operands, _matmul(patches, weights.reshape(outputs, -1).T))


def depthwise_conv_2d(operands: Operands) -> np.ndarray:
    """Weights (1, H, W, channels * multiplier)."""
    _, height, width, channels = operands.arrays[1].shape
    multiplier = operands.operator.attributes["depth_multiplier"]
    view = _windows(operands, (height, width))
    weights = operands.arrays[1][0].astype(np.float64)
    total = np.zeros((*view.shape[:3], channels))
    for row in range(height):
        for column in range(width):
            values = np.repeat(view[..., row, column], multiplier, axis=-1)
            total += values * weights[row, column]
    return _requantized(operands, total.astype(np.int64))


def fully_connected(operands: Operands) -> np.ndarray:
    """Weights (out, in); the output keeps the leading dimensions or flattens them."""
    weights = operands.arrays[1]
    values = operands.centred().astype(np.float64)
    if not operands.operator.attributes["keep_num_dims"]:
        values = values.reshape(len(values) * (values[0].size // weights.shape[1]), -1)
    return _requantized(operands, _matmul(values, weights.T))


def _windows(operands: Operands, filter_size: tuple[int, int]) -> np.ndarray:
    """Windows of the input in float64, padded with its zero point."""
    values = operands.centred().astype(np.float64)
    return windows(values, filter_size, operands.operator.attributes, fill=0)


def _matmul(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.matmul(values, weights.astype(np.float64)).astype(np.int64)


def _requantized(operands: Operands, accumulators: np.ndarray) -> np.ndarray:
    if len(operands.arrays) > 2:
        accumulators = accumulators + operands.arrays[2].astype(np.int64)
    if operands.output.dtype == "int8":
        accumulators = fixed_point.wrapped(accumulators)
    weight_scales = operands.tensors[1].quantization.scale.astype(np.float64)
    real = operands.scale() * weight_scales / operands.output_scale
    return operands.finished(_rescale(operands)(accumulators, real))


def _rescale(operands: Operands) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Kernels differ in how they round; measured on LiteRT's reference kernels."""
    if operands.operator.kind == "FULLY_CONNECTED":
        return fixed_point.multiply_once
    return fixed_point.multiply_wide if operands.output.dtype == "int16" else fixed_point.multiply
