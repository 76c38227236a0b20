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
#: Between the lowest and the highest int8, in LSB.
_INT8_CONTRAST = 255


def nearest_neighbor(operands: Operands) -> np.ndarray:
    values = operands.arrays[0]
    rows, columns = (_nearest(operands, axis) for axis in (1, 2))
    return values[:, rows][:, :, columns]


def _nearest(case: Case, axis: int) -> np.ndarray:
    """Source index of each output along an axis, in the float32 of the reference kernel."""
    (size, outputs), (span, steps) = _sizes(case, axis), _spans(case, axis)
    scale = np.float32(span) / np.float32(steps)
    offset = np.float32(0.5 if case.attributes["half_pixel_centers"] else 0.0)
    position = (np.arange(outputs, dtype=np.float32) + offset) * scale
    if case.attributes["align_corners"]:
        # A half goes up, as in C's `round` of what is not negative.
        position = position + np.float32(0.5)
    return np.minimum(np.floor(position).astype(np.int64), size - 1)


def _sizes(case: Case, axis: int) -> tuple[int, int]:
    """Pixels of the input and of the output along an axis."""
    return case.shapes[0][axis], case.attributes["size"][axis - 1]


def _spans(case: Case, axis: int) -> tuple[int, int]:
    """Lengths in pixels that lie over each other: from corner to corner, or from edge to edge."""
    size, outputs = _sizes(case, axis)
    less = int(case.attributes["align_corners"] and outputs > 1)
    return size - less, outputs - less


def bilinear(operands: Operands) -> np.ndarray:
    values = operands.arrays[0].astype(np.int64)
    above, below, row_share = _neighbours(operands, 1)
    left, right, column_share = _neighbours(operands, 2)
    row_share = row_share[:, None, None]
    column_share = column_share[:, None]
    upper = values[:, above]
    lower = values[:, below]
    total = (_ONE - row_share) * (
        (_ONE - column_share) * upper[:, :, left] + column_share * upper[:, :, right]
    ) + row_share * ((_ONE - column_share) * lower[:, :, left] + column_share * lower[:, :, right])
    half = np.where(total > 0, _ONE * _ONE // 2, -(_ONE * _ONE // 2))
    return fixed_point.truncated_divide(total + half, _ONE * _ONE).astype(operands.output.dtype)


def _neighbours(case: Case, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper source index of each output, and the upper one's share of `_ONE`."""
    size, outputs = _sizes(case, axis)
    scale = _step(case, axis)
    position = np.arange(outputs, dtype=np.int64) * scale
    if case.attributes["half_pixel_centers"]:
        position += scale // 2 - _ONE // 2
    lower = np.maximum(fixed_point.truncated_divide(position, _ONE), 0)
    upper = np.minimum(fixed_point.truncated_divide(position + _ONE - 1, _ONE), size - 1)
    return lower, upper, position - _ONE * lower


def _step(case: Case, axis: int) -> int:
    """Distance of two outputs in the input, in units of 1 / `_ONE`."""
    span, steps = _spans(case, axis)
    return (_ONE * span + steps // 2) // steps


def _resized(case: Case) -> Shape:
    (given,) = case.shapes
    require_rank(given, 4)
    height, width = integers(case.attributes["size"], 2, "the new size", least=1)
    return (given[0], height, width, given[3])


def _drift(case: Case) -> int:
    """LSB between two pixels of the largest contrast, by LiteRT's coordinates and by exact ones."""
    pixels = 0.0
    for axis in (1, 2):
        span, steps = _spans(case, axis)
        off = abs(_step(case, axis) / _ONE - span / steps)
        # Half a step where pixels are centred, and its own rounding.
        pixels += _sizes(case, axis)[1] * off + 1 / _ONE
    return math.ceil(_INT8_CONTRAST * pixels)


def _other_pixel(case: Case) -> int:
    """LSB between two pixels of the largest contrast, where kernels choose different ones."""
    if case.attributes["align_corners"] or case.attributes["half_pixel_centers"]:
        return 0
    for axis in (1, 2):
        size, outputs = _sizes(case, axis)
        exact = np.arange(outputs) * size // outputs
        if np.any(_nearest(case, axis) != exact):
            return _INT8_CONTRAST
    return 0


_BY_XNNPACK = Tolerance(
    1,
    "XNNPACK interpolates at exact coordinates, LiteRT steps by a scale of 10 fractional bits, "
    "whose error grows with the size of the output; this comes on top",
    drift=_drift,
)

#: Which pixels of the input stand at the corners of the output, and where pixels are.
_CORNERS = {
    "align_corners": Attribute("alignCorners"),
    "half_pixel_centers": Attribute("halfPixelCenters"),
}
_EXACT_COORDINATES = Tolerance(
    0,
    "the optimized kernel computes with exact coordinates, the reference kernel with float32 ones, "
    "which may be just below the integer that they stand for",
    drift=_other_pixel,
)

RESIZE_NEAREST_NEIGHBOR = register(
    OperatorKind(
        "RESIZE_NEAREST_NEIGHBOR",
        nearest_neighbor,
        _resized,
        versions=(2, 4),
        options="ResizeNearestNeighborOptions",
        attributes=_CORNERS | {"size": OPERAND},
        ties=True,
        tolerances={("litert", "int8"): _EXACT_COORDINATES},
    )
)
RESIZE_BILINEAR = register(
    OperatorKind(
        "RESIZE_BILINEAR",
        bilinear,
        _resized,
        versions=(3, 4),
        options="ResizeBilinearOptions",
        attributes=_CORNERS | {"size": OPERAND},
        ties=True,
        tolerances={("litert", "int8"): _BY_XNNPACK},
    )
)
