"""Pooling: the largest integer of every window of an image, or the mean."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from tflite_export.graph import fixed_point, limits
from tflite_export.graph.case import Case
from tflite_export.graph.kinds import OperatorKind, Shape, register
from tflite_export.graph.proofs import exceeding
from tflite_export.graph.shapes import image, require_rank
from tflite_export.operators.operands import Operands
from tflite_export.operators.stored import FILTER, UNFUSED, WINDOW
from tflite_export.operators.windows import filter_windows, padded_elements, windows


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
    attributes = operands.attributes
    size = (attributes["filter_h"], attributes["filter_w"])
    return windows(values, size, attributes, fill=fill)


def _rounded_mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    half = np.where(total > 0, count // 2, -(count // 2))
    return fixed_point.truncated_divide(total + half, count)


def _pooled(case: Case) -> Shape:
    require_rank(case.shapes[0], 4)
    return image(case, filter_windows(case), case.shapes[0][3])


def _elements_read(case: Case) -> int:
    window = case.attributes["filter_h"] * case.attributes["filter_w"]
    return math.prod(case.output.shape) * window


def _padded(case: Case) -> int:
    return padded_elements(case, filter_windows(case))


def _sum_overflow(case: Case) -> Iterator[str]:
    attributes, shape = case.attributes, case.inputs[0].shape
    count = min(attributes["filter_h"], shape[1]) * min(attributes["filter_w"], shape[2])
    largest = 2**15 if case.dtype == "int16" else 2**7
    yield from exceeding(
        count * largest + count // 2, limits.INT32, f"the sum of {count} positions"
    )


MAX_POOL_2D = register(
    OperatorKind(
        "MAX_POOL_2D",
        max_pool_2d,
        _pooled,
        versions=(2, 3),
        options="Pool2DOptions",
        attributes=WINDOW | FILTER,
        required=UNFUSED,
        ties=True,
        multiplications=_elements_read,
        scratch=_padded,
    )
)
AVERAGE_POOL_2D = register(
    dataclasses.replace(
        MAX_POOL_2D, name="AVERAGE_POOL_2D", kernel=average_pool_2d, overflow=_sum_overflow
    )
)
