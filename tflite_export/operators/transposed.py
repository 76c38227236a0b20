"""Transposed convolution: every input is spread over a window of the output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tflite_export.graph.activations import NONE
from tflite_export.graph.case import Case
from tflite_export.graph.kinds import ACTIVATION, BIAS, WEIGHTS, OperatorKind, Shape, register
from tflite_export.graph.shapes import integers, positive, require, require_rank
from tflite_export.operators.operands import Operands
from tflite_export.operators.stored import FUSED, OPERAND, RESCALED_BY_XNNPACK, WINDOW
from tflite_export.operators.sums import kernel_overflow, weight_problems
from tflite_export.operators.weighted import matmul, requantized
from tflite_export.operators.windows import padding_before_after

_SIDES = ((1, "h"), (2, "w"))


def transpose_conv(operands: Operands) -> np.ndarray:
    """Weights (out, H, W, in)."""
    weights = operands.array(WEIGHTS)
    values = operands.centred().astype(np.float64)
    products = matmul(values, weights.reshape(-1, weights.shape[3]).T)
    spread = _spread(products.reshape(*values.shape[:3], *weights.shape[:3]), operands)
    return requantized(operands, _cut(spread, weights.shape[1:3], operands))


def _spread(products: np.ndarray, operands: Operands) -> np.ndarray:
    """Sums (N, H, W, out) of products (N, h, w, out, filter height, filter width)."""
    samples, height, width, channels, *filter_size = products.shape
    strides = [operands.attributes[f"stride_{side}"] for _, side in _SIDES]
    sizes = [
        (count - 1) * stride + size
        for count, stride, size in zip((height, width), strides, filter_size, strict=True)
    ]
    total = np.zeros((samples, *sizes, channels), np.int64)
    for row in range(filter_size[0]):
        for column in range(filter_size[1]):
            rows = slice(row, row + (height - 1) * strides[0] + 1, strides[0])
            columns = slice(column, column + (width - 1) * strides[1] + 1, strides[1])
            total[:, rows, columns] += products[..., row, column]
    return total


def _cut(total: np.ndarray, filter_size: tuple[int, ...], operands: Operands) -> np.ndarray:
    """The part that the output shows; where nothing was spread, zeros."""
    same = operands.attributes["padding"] == "SAME"
    for (axis, side), window in zip(_SIDES, filter_size, strict=True):
        size = operands.output.shape[axis]
        stride = operands.attributes[f"stride_{side}"]
        before, _ = padding_before_after(size, window=window, stride=stride, same=same)
        total = np.take(total, range(before, min(before + size, total.shape[axis])), axis=axis)
        missing = [(0, size - total.shape[axis] if each == axis else 0) for each in range(4)]
        total = np.pad(total, missing)
    return total


def _shape(case: Case) -> Shape:
    source, weights = case.shapes[0], case.tensor(WEIGHTS).shape
    require_rank(source, 4)
    require_rank(weights, 4)
    require(weights[3] == source[3], f"weights {weights} on an image {source}")
    if case.has(BIAS):
        bias = case.tensor(BIAS).shape
        require(bias == weights[:1], f"a bias {bias} of weights {weights}")
    made = tuple(integers(case.attributes["output_shape"], 4, "the output's shape", least=1))
    require((made[0], made[3]) == (source[0], weights[0]), f"an output {made} of {source}")
    strides = positive(case.attributes, "stride_h", "stride_w")
    for axis, stride in enumerate(strides, 1):
        room = made[axis] + (0 if case.attributes["padding"] == "SAME" else 1 - weights[axis])
        require(-(-room // stride) == source[axis], f"an output {made} of {source}")
    return made


def _version(dtype: str, attributes: Mapping[str, Any]) -> int:
    """Biases came with the third, fused activation functions with the fourth."""
    return 3 if attributes.get(ACTIVATION, NONE) == NONE else 4


def _products(case: Case) -> int:
    return math.prod(case.shapes[0]) * math.prod(case.tensor(WEIGHTS).shape[:3])


def _scratch(case: Case) -> int:
    """Products before they are added up."""
    return math.prod(case.shapes[0][:3]) * math.prod(case.tensor(WEIGHTS).shape[:3])


TRANSPOSE_CONV = register(
    OperatorKind(
        "TRANSPOSE_CONV",
        transpose_conv,
        _shape,
        versions=_version,
        options="TransposeConvOptions",
        attributes=WINDOW | FUSED | {"output_shape": OPERAND},
        roles=("input", WEIGHTS, BIAS),
        optional=True,
        layout=("output_shape", WEIGHTS, "input", BIAS),
        own_types=(WEIGHTS, BIAS),
        operands=weight_problems,
        channel_axis=0,
        overflow=kernel_overflow,
        multiplications=_products,
        scratch=_scratch,
        tolerances=RESCALED_BY_XNNPACK,
    )
)
