"""Resizing of images."""

from __future__ import annotations

import math

import numpy as np

from tflite_export.graph import fixed_point
from tflite_export.graph.case import Case
from tflite_export.graph.kinds import Attribute, OperatorKind, Shape, Tolerance, register
from tflite_export.graph.shapes import integers, require_rank
from tflite_export.operators.operands import Operands
from tflite_export.operators.stored import OPERAND

#: One, in the fixed-point coordinates of the bilinear kernel.
_ONE = 1 << 10
_INT8_CONTRAST = 255


def nearest_neighbor(operands: Operands) -> np.ndarray:
    values = operands.arrays[0]
    height, width = operands.attributes["size"]
    rows = np.arange(height) * values.shape[1] // height
    columns = np.arange(width) * values.shape[2] // width
    return values[:, rows][:, :, columns]


def bilinear(operands: Operands) -> np.ndarray:
    values = operands.arrays[0].astype(np.int64)
    half_pixel = operands.attributes["half_pixel_centers"]
    height, width = operands.attributes["size"]
    above, below, row_share = _neighbours(values.shape[1], height, half_pixel=half_pixel)
    left, right, column_share = _neighbours(values.shape[2], width, half_pixel=half_pixel)
    row_share = row_share[:, None, None]
    column_share = column_share[:, None]
    upper = values[:, above]
    lower = values[:, below]
    total = (_ONE - row_share) * (
        (_ONE - column_share) * upper[:, :, left] + column_share * upper[:, :, right]
    ) + row_share * ((_ONE - column_share) * lower[:, :, left] + column_share * lower[:, :, right])
    half = np.where(total > 0, _ONE * _ONE // 2, -(_ONE * _ONE // 2))
    return fixed_point.truncated_divide(total + half, _ONE * _ONE).astype(operands.output.dtype)


def _neighbours(
    size: int, outputs: int, *, half_pixel: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper source index of each output, and the upper one's share of `_ONE`."""
    scale = (_ONE * size + outputs // 2) // outputs
    position = np.arange(outputs, dtype=np.int64) * scale
    if half_pixel:
        position += scale // 2 - _ONE // 2
    lower = np.maximum(fixed_point.truncated_divide(position, _ONE), 0)
    upper = np.minimum(fixed_point.truncated_divide(position + _ONE - 1, _ONE), size - 1)
    return lower, upper, position - _ONE * lower


def _resized(case: Case) -> Shape:
    (given,) = case.shapes
    require_rank(given, 4)
    height, width = integers(case.attributes["size"], 2, "the new size", least=1)
    return (given[0], height, width, given[3])


def _drift(case: Case) -> int:
    """LSB between two pixels of the largest contrast, by LiteRT's coordinates and by exact ones."""
    pixels = 0.0
    for size, outputs in zip(case.shapes[0][1:3], case.attributes["size"], strict=True):
        step = (_ONE * size + outputs // 2) // outputs / _ONE
        # Half a step where pixels are centred, and its own rounding.
        pixels += outputs * abs(step - size / outputs) + 1 / _ONE
    return math.ceil(_INT8_CONTRAST * pixels)


_BY_XNNPACK = Tolerance(
    1,
    "XNNPACK interpolates at exact coordinates, LiteRT steps by a scale of 10 fractional bits, "
    "whose error grows with the size of the output; this comes on top",
    drift=_drift,
)

RESIZE_NEAREST_NEIGHBOR = register(
    OperatorKind(
        "RESIZE_NEAREST_NEIGHBOR",
        nearest_neighbor,
        _resized,
        versions=(2, 4),
        options="ResizeNearestNeighborOptions",
        attributes={"size": OPERAND},
        required={"alignCorners": False, "halfPixelCenters": False},
        ties=True,
    )
)
RESIZE_BILINEAR = register(
    OperatorKind(
        "RESIZE_BILINEAR",
        bilinear,
        _resized,
        versions=(3, 4),
        options="ResizeBilinearOptions",
        attributes={"half_pixel_centers": Attribute("halfPixelCenters"), "size": OPERAND},
        required={"alignCorners": False},
        ties=True,
        tolerances={("litert", "int8"): _BY_XNNPACK},
    )
)
