"""Reductions over axes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tflite_export.graph import fixed_point, limits
from tflite_export.graph.case import Case
from tflite_export.graph.codes import lowest
from tflite_export.graph.kinds import Attribute, OperatorKind, Shape, register
from tflite_export.graph.proofs import exceeding, results, shifted
from tflite_export.graph.shapes import axis_of, integers, require
from tflite_export.operators.operands import Operands
from tflite_export.operators.stored import MEASURED_IN_TFLM, OPERAND, RESCALED_BY_XNNPACK

#: Axes, and whether they stay with the size 1.
_AXES = {"axes": OPERAND, "keep_dims": Attribute("keepDims")}
#: Code of the schema's type.
_INT32 = 2


def mean(operands: Operands) -> np.ndarray:
    """Sum minus the zero points, times a multiplier that holds the division by the count."""
    centred = operands.centred()
    total = centred.sum(**_along(operands))
    count = math.prod(centred.shape[axis] for axis in _inner_axes(operands))
    fraction, exponent = fixed_point.quantize_multiplier(operands.scale() / operands.output_scale)
    return operands.finished(_divided(total, int(fraction), int(exponent), count))


def _inner_axes(operands: Operands) -> tuple[int, ...]:
    """Axes but the batch's, whose size is 1 in a file: samples do not mix."""
    rank = operands.arrays[0].ndim
    return tuple(axis for axis in operands.attributes["axes"] if axis % rank)


def _along(operands: Operands) -> dict[str, Any]:
    """Arguments of NumPy's reductions."""
    return {"axis": _inner_axes(operands), "keepdims": operands.attributes["keep_dims"]}


def total(operands: Operands) -> np.ndarray:
    """The sum of the raw integers, brought to the output's scale in float32."""
    (scale, made), source = operands.scales(), operands.inputs[0]
    values = operands.aligned().astype(np.int64)
    count = math.prod(values.shape[axis] for axis in _inner_axes(operands))
    real = scale / made
    bias = np.float32(-source.quantization.zero_point) * real * np.float32(count)
    sums = values.sum(**_along(operands)).astype(np.float32) * real + bias
    return operands.finished(fixed_point.round_half_away(sums))


def reduce_max(operands: Operands) -> np.ndarray:
    return operands.arrays[0].max(**_along(operands))


def reduce_min(operands: Operands) -> np.ndarray:
    return operands.arrays[0].min(**_along(operands))


def arg_max(operands: Operands) -> np.ndarray:
    """Place of the (first) largest integer along an axis."""
    (axis,) = operands.attributes["axis"]
    return operands.arrays[0].argmax(axis=axis).astype(np.int32)


def _divided(total: np.ndarray, fraction: int, exponent: int, count: int) -> np.ndarray:
    """total * fraction * 2^(exponent - 31) / count, with the division folded into the fraction."""
    shift = min(count.bit_length() - 1, 32, 31 + exponent)
    folded = (fraction << shift) // count
    exponent -= shift
    widened = fixed_point.wrapped(total << min(max(exponent, 0), 31))
    product = fixed_point.doubling_high_multiply(widened, folded)
    return fixed_point.rounding_right_shift(product, max(-exponent, 0))


def _reduced(case: Case) -> Shape:
    (given,) = case.shapes
    axes = {axis_of(axis, len(given)) for axis in case.attributes["axes"]}
    require(len(axes) == len(case.attributes["axes"]), f"axes {case.attributes['axes']}")
    if case.attributes["keep_dims"]:
        return tuple(1 if axis in axes else size for axis, size in enumerate(given))
    return tuple(size for axis, size in enumerate(given) if axis not in axes)


def _mean_overflow(case: Case) -> Iterator[str]:
    source = case.inputs[0]
    count = math.prod(source.shape[axis] for axis in case.attributes["axes"])
    low, high = limits.reach(source.dtype, source.quantization.zero_point)
    sums = max(-count * low - 1, count * high)
    yield from exceeding(sums, limits.INT32, f"the sum of {count} positions")
    # The division by the count is part of the multiplier, but for the bits that it rounds off.
    multiplier = case.scale() / case.output_scale
    yield from results(shifted(2 * case.reach(), multiplier))


def _without_axis(case: Case) -> Shape:
    (given,) = case.shapes
    (axis,) = integers(case.attributes["axis"], 1, "the axis", least=-len(given))
    place = axis_of(axis, len(given))
    return (*given[:place], *given[place + 1 :])


def _sum_overflow(case: Case) -> Iterator[str]:
    source = case.inputs[0]
    count = math.prod(source.shape[axis] for axis in case.attributes["axes"])
    low, high = limits.reach(source.dtype, 0)
    yield from exceeding(
        max(-count * low, count * high), limits.INT32, f"the sum of {count} positions"
    )
    yield from results(np.asarray(count * case.reach() * case.scale() / case.output_scale))


def _mean_keeps_codes(case: Case, low: int) -> bool:
    """A mean of numbers that are not negative is not negative."""
    (source,) = case.inputs
    is_positive = lowest(source) >= source.quantization.zero_point
    return case.output.quantization.zero_point >= low and is_positive


MEAN = register(
    OperatorKind(
        "MEAN",
        mean,
        _reduced,
        versions=(2, 3),
        options="ReducerOptions",
        attributes=_AXES,
        keeps_sign=True,
        keeps_codes=_mean_keeps_codes,
        overflow=_mean_overflow,
        tolerances=RESCALED_BY_XNNPACK,
    )
)
SUM = register(
    OperatorKind(
        "SUM",
        total,
        _reduced,
        versions=(2, 2),
        options="ReducerOptions",
        attributes=_AXES,
        overflow=_sum_overflow,
        tolerances=RESCALED_BY_XNNPACK
        | {("tflm", "int8"): MEASURED_IN_TFLM, ("tflm", "int16"): MEASURED_IN_TFLM},
    )
)
REDUCE_MAX = register(
    OperatorKind(
        "REDUCE_MAX",
        reduce_max,
        _reduced,
        versions=(2, 3),
        options="ReducerOptions",
        attributes=_AXES,
        ties=True,
    )
)
REDUCE_MIN = register(dataclasses.replace(REDUCE_MAX, name="REDUCE_MIN", kernel=reduce_min))
ARG_MAX = register(
    OperatorKind(
        "ARG_MAX",
        arg_max,
        _without_axis,
        versions=(2, 2),
        options="ArgMaxOptions",
        attributes={"axis": OPERAND},
        written={"outputType": _INT32},
        required={"outputType": _INT32},
        fixes={"int32": (1.0, 0)},
        makes_indices=True,
    )
)
