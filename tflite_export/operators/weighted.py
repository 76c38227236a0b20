"""Convolution, depthwise convolution and fully connected layers.

Sums are exact: products of int16 and int8 stay below 2^53 in float64, which lets BLAS do the work.
Those of int8 activations then wrap around as in the int32 registers of the kernels; that they never
do in a graph that was frozen is proven in `tflite_export.graph.proofs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflite_export.graph import fixed_point
from tflite_export.graph.case import Case
from tflite_export.graph.kinds import (
    BIAS,
    WEIGHTS,
    Attribute,
    OperatorKind,
    Shape,
    Tolerance,
    register,
)
from tflite_export.graph.shapes import image, positive, require, require_rank
from tflite_export.operators.operands import Operands
from tflite_export.operators.stored import DILATION, FUSED, RESCALED_BY_XNNPACK, WINDOW
from tflite_export.operators.sums import kernel_overflow, weight_problems
from tflite_export.operators.windows import kernel_windows, padded_elements, windows

#: Of accumulators by real factors.
Rescale = Callable[[np.ndarray, np.ndarray], np.ndarray]


def conv_2d(operands: Operands) -> np.ndarray:
    """Weights (out, H, W, in)."""
    weights = operands.array(WEIGHTS)
    outputs, height, width, _ = weights.shape
    view = _windows(operands, (height, width))
    patches = view.transpose(0, 1, 2, 4, 5, 3).reshape(*view.shape[:3], -1)
    return requantized(operands, matmul(patches, weights.reshape(outputs, -1).T))


def depthwise_conv_2d(operands: Operands) -> np.ndarray:
    """Weights (1, H, W, channels * multiplier)."""
    _, height, width, channels = operands.array(WEIGHTS).shape
    multiplier = operands.attributes["depth_multiplier"]
    view = _windows(operands, (height, width))
    weights = operands.array(WEIGHTS)[0].astype(np.float64)
    total = np.zeros((*view.shape[:3], channels))
    for row in range(height):
        for column in range(width):
            values = np.repeat(view[..., row, column], multiplier, axis=-1)
            total += values * weights[row, column]
    return requantized(operands, total.astype(np.int64))


def fully_connected(operands: Operands) -> np.ndarray:
    """Weights (out, in); the output keeps the leading dimensions or flattens them."""
    weights = operands.array(WEIGHTS)
    values = operands.centred().astype(np.float64)
    if not operands.attributes["keep_num_dims"]:
        values = values.reshape(len(values) * (values[0].size // weights.shape[1]), -1)
    sums = matmul(values, weights.T)
    return requantized(operands, sums, rescale=fixed_point.multiply_real)


def _windows(operands: Operands, filter_size: tuple[int, int]) -> np.ndarray:
    """Windows of the input in float64, padded with its zero point."""
    values = operands.centred().astype(np.float64)
    return windows(values, filter_size, operands.attributes, fill=0)


def matmul(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Exact sums of products of integers, int64."""
    return np.matmul(values, weights.astype(np.float64)).astype(np.int64)


def requantized(
    operands: Operands, accumulators: np.ndarray, *, rescale: Rescale | None = None
) -> np.ndarray:
    """Adds the bias to sums of products, and brings them to the output's scale.

    Args:
        rescale: how the kernel rounds, measured on LiteRT's reference kernels; by default as
            convolutions do.
    """
    if operands.has(BIAS):
        accumulators = accumulators + operands.array(BIAS).astype(np.int64)
    if operands.output.dtype == "int8":
        accumulators = fixed_point.wrapped(accumulators)
    if rescale is None:
        is_wide = operands.output.dtype == "int16"
        rescale = fixed_point.multiply_wide if is_wide else fixed_point.multiply
    weight_scales = operands.tensor(WEIGHTS).quantization.scale.astype(np.float64)
    real = operands.scale() * weight_scales / operands.output_scale
    return operands.finished(rescale(accumulators, real))


def _bias_shape(case: Case) -> Shape | None:
    return case.tensor(BIAS).shape if case.has(BIAS) else None


def _convolution(case: Case) -> Shape:
    source, weights, bias = case.shapes
    require_rank(source, 4)
    require_rank(weights, 4)
    require(weights[3] == source[3], f"weights {weights} on an image {source}")
    require(bias == weights[:1], f"a bias {bias} of weights {weights}")
    return image(case, kernel_windows(case), weights[0])


def _depthwise(case: Case) -> Shape:
    source, weights, bias = case.shapes
    require_rank(source, 4)
    require_rank(weights, 4)
    (multiplier,) = positive(case.attributes, "depth_multiplier")
    require(
        weights[0] == 1 and weights[3] == source[3] * multiplier,
        f"weights {weights} on an image {source}, {multiplier} a channel",
    )
    require(bias == weights[3:], f"a bias {bias} of weights {weights}")
    return image(case, kernel_windows(case), weights[3])


def _dense(case: Case) -> Shape:
    given, weights, bias = case.shapes[0], case.tensor(WEIGHTS).shape, _bias_shape(case)
    require_rank(weights, 2)
    units, depth = weights
    require(bias in (None, (units,)), f"a bias {bias} of weights {weights}")
    if case.attributes["keep_num_dims"]:
        require(given[-1:] == (depth,), f"weights {weights} on {given}")
        return (*given[:-1], units)
    require(len(given) > 0 and math.prod(given[1:]) % depth == 0, f"weights {weights} on {given}")
    return (math.prod(given) // depth, units)


def _dense_version(dtype: str, attributes: Mapping[str, Any]) -> int:
    """What keeps the leading dimensions is one newer."""
    if dtype == "int16":
        return 7
    return 5 if attributes.get("keep_num_dims") else 4


def _products_of_a_channel(case: Case) -> int:
    """Every output is a sum over all weights of its channel."""
    return math.prod(case.output.shape) * math.prod(case.tensor(WEIGHTS).shape[1:])


def _products_of_a_window(case: Case) -> int:
    return math.prod(case.output.shape) * math.prod(case.tensor(WEIGHTS).shape[1:3])


def _padded(case: Case) -> int:
    return padded_elements(case, kernel_windows(case))


_CONSTANTS = (WEIGHTS, BIAS)
_ROLES = ("input", *_CONSTANTS)
#: Code of weights that are not shuffled.
_DEFAULT_FORMAT = 0
_ROUNDED_TWICE = Tolerance(1, "TFLM's kernel rounds twice where LiteRT's rounds once")

CONV_2D = register(
    OperatorKind(
        "CONV_2D",
        conv_2d,
        _convolution,
        versions=(3, 4),
        options="Conv2DOptions",
        attributes=WINDOW | DILATION | FUSED,
        roles=_ROLES,
        own_types=_CONSTANTS,
        operands=weight_problems,
        bias_reason="LiteRT refuses it without one",
        channel_axis=0,
        overflow=kernel_overflow,
        multiplications=_products_of_a_channel,
        scratch=_padded,
        tolerances=RESCALED_BY_XNNPACK,
    )
)
DEPTHWISE_CONV_2D = register(
    OperatorKind(
        "DEPTHWISE_CONV_2D",
        depthwise_conv_2d,
        _depthwise,
        versions=(3, 5),
        options="DepthwiseConv2DOptions",
        attributes=WINDOW | DILATION | {"depth_multiplier": Attribute("depthMultiplier")} | FUSED,
        roles=_ROLES,
        own_types=_CONSTANTS,
        operands=weight_problems,
        bias_reason="XNNPACK ends the process without one",
        channel_axis=3,
        overflow=kernel_overflow,
        multiplications=_products_of_a_window,
        scratch=_padded,
        tolerances=RESCALED_BY_XNNPACK,
    )
)
FULLY_CONNECTED = register(
    OperatorKind(
        "FULLY_CONNECTED",
        fully_connected,
        _dense,
        versions=_dense_version,
        options="FullyConnectedOptions",
        attributes={"keep_num_dims": Attribute("keepNumDims")} | FUSED,
        required={"weightsFormat": _DEFAULT_FORMAT},
        roles=_ROLES,
        own_types=_CONSTANTS,
        optional=True,
        operands=weight_problems,
        channel_axis=0,
        overflow=kernel_overflow,
        multiplications=_products_of_a_channel,
        tolerances=RESCALED_BY_XNNPACK
        | {("tflm", "int8"): _ROUNDED_TWICE, ("tflm", "int16"): _ROUNDED_TWICE},
    )
)
