"""Resizing of images."""

from __future__ import annotations

import numpy as np

from tflite_export.graph import fixed_point
from tflite_export.operators.operands import Operands

#: One, in the fixed-point coordinates of the bilinear kernel.
_ONE = 1 << 10


def nearest_neighbor(operands: Operands) -> np.ndarray:
    values = operands.arrays[0]
    height, width = operands.operator.attributes["size"]
    rows = np.arange(height) * values.shape[1] // height
    columns = np.arange(width) * values.shape[2] // width
    return values[:, rows][:, :, columns]


def bilinear(operands: Operands) -> np.ndarray:
    values = operands.arrays[0].astype(np.int64)
    half_pixel = operands.operator.attributes["half_pixel_centers"]
    height, width = operands.operator.attributes["size"]
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
