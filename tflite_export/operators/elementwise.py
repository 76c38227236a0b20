"""Arithmetic between two tensors, with broadcasting."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tflite_export.graph import fixed_point, limits
from tflite_export.graph.case import Case
from tflite_export.graph.codes import lowest
from tflite_export.graph.kinds import OperatorKind, Tolerance, register
from tflite_export.graph.operand_rules import INDEX
from tflite_export.graph.proofs import exceeding, results, said, shifted
from tflite_export.graph.shapes import broadcast
from tflite_export.operators.operands import Operands
from tflite_export.operators.stored import FUSED, QUOTIENT_IN_TFLM, RESCALED_BY_XNNPACK

#: Bits by which inputs are widened before they are brought to a common scale.
_WIDENING = {"int8": 20, "int16": 15}
_WIDENING_OF_SQUARES = {"int8": 7, "int16": 0}


def add(operands: Operands) -> np.ndarray:
    if operands.output.dtype == INDEX:
        return operands.arrays[0] + operands.arrays[1]
    return _sum(operands, sign=1)


def subtract(operands: Operands) -> np.ndarray:
    return _sum(operands, sign=-1)


def _sum(operands: Operands, *, sign: int) -> np.ndarray:
    """Both inputs are brought to a common scale, added, and rescaled."""
    widening = _WIDENING[operands.output.dtype]
    left, right = _at_common_scale(operands, widening=widening)
    real = _common_scale(operands) / (2.0**widening * operands.output_scale)
    return operands.finished(fixed_point.multiply(left + sign * right, real))


def _common_scale(case: Case) -> np.float64:
    """Twice the larger input scale: neither input grows."""
    return 2.0 * max(case.scale(0), case.scale(1))


def _at_common_scale(operands: Operands, *, widening: int) -> list[np.ndarray]:
    """Both inputs in units of 2^-widening of their common scale."""
    common = _common_scale(operands)
    return [
        fixed_point.multiply(operands.centred(index) << widening, operands.scale(index) / common)
        for index in (0, 1)
    ]


def multiply(operands: Operands) -> np.ndarray:
    # The kernel's multiplier is a product and a quotient in float32.
    left, right, made = operands.scales()
    real = np.float64(np.float32(left * right) / made)
    product = operands.centred(0) * operands.centred(1)
    return operands.finished(fixed_point.multiply(product, real))


def squared_difference(operands: Operands) -> np.ndarray:
    """Both inputs are brought to a common scale, subtracted, squared and rescaled."""
    widening = _WIDENING_OF_SQUARES[operands.output.dtype]
    left, right = _at_common_scale(operands, widening=widening)
    squares = fixed_point.wrapped((left - right) ** 2)
    return operands.finished(fixed_point.multiply(squares, _square_multiplier(operands)))


def _square_multiplier(case: Case) -> np.float64:
    common, widening = _common_scale(case), _WIDENING_OF_SQUARES[case.dtype]
    return common * common / (2.0 ** (2 * widening) * case.output_scale)


def maximum(operands: Operands) -> np.ndarray:
    return np.maximum(operands.aligned(0), operands.aligned(1))


def minimum(operands: Operands) -> np.ndarray:
    return np.minimum(operands.aligned(0), operands.aligned(1))


def _sum_overflow(case: Case) -> Iterator[str]:
    if case.dtype == INDEX:
        return
    ratio = _common_scale(case) / case.output_scale
    bound = limits.SUM_RATIO[case.dtype]
    if ratio >= bound:
        yield said(ratio, "twice its larger input scale / its output scale", f"below {bound:g}")


def product_overflow(case: Case) -> Iterator[str]:
    multiplier = case.scale(0) * case.scale(1) / case.output_scale
    yield from results(shifted(case.reach(0) * case.reach(1), multiplier))


def _square_overflow(case: Case) -> Iterator[str]:
    widening = _WIDENING_OF_SQUARES[case.dtype]
    widened = 2.0 ** (widening - 1) * (case.reach(0) + case.reach(1))
    largest = np.asarray(widened**2)
    yield from exceeding(largest, limits.INT32, "the square of the widened difference")
    yield from results(shifted(largest, _square_multiplier(case)))


def _larger_keeps_codes(case: Case, low: int) -> bool:
    return any(lowest(tensor) >= low for tensor in case.inputs)


_PAIR = ("left", "right")
#: The schema's default asks for int16 kernels that add powers of two only.
_ANY_SCALE = {"potScaleInt16": False}
_SUM_OF_16_BITS = Tolerance(
    1,
    "the optimized kernel's sum, before it is rescaled, differs from the reference kernel's in the "
    "last bit; that decides where it is halfway, in about one of 10^5 results",
)

ADD = register(
    OperatorKind(
        "ADD",
        add,
        broadcast,
        versions=(2, 3),
        options="AddOptions",
        attributes=FUSED,
        written=_ANY_SCALE,
        roles=_PAIR,
        keeps_sign=True,
        counts=True,
        overflow=_sum_overflow,
        tolerances=RESCALED_BY_XNNPACK | {("litert", "int16"): _SUM_OF_16_BITS},
    )
)
SUB = register(
    OperatorKind(
        "SUB",
        subtract,
        broadcast,
        versions=(2, 5),
        options="SubOptions",
        attributes=FUSED,
        written=_ANY_SCALE,
        roles=_PAIR,
        overflow=_sum_overflow,
        tolerances=RESCALED_BY_XNNPACK,
    )
)
MUL = register(
    OperatorKind(
        "MUL",
        multiply,
        broadcast,
        versions=(2, 4),
        options="MulOptions",
        attributes=FUSED,
        roles=_PAIR,
        keeps_sign=True,
        squares=True,
        overflow=product_overflow,
        tolerances=RESCALED_BY_XNNPACK | QUOTIENT_IN_TFLM,
    )
)
SQUARED_DIFFERENCE = register(
    OperatorKind(
        "SQUARED_DIFFERENCE",
        squared_difference,
        broadcast,
        versions=(2, 2),
        options="SquaredDifferenceOptions",
        roles=_PAIR,
        overflow=_square_overflow,
    )
)
MAXIMUM = register(
    OperatorKind(
        "MAXIMUM",
        maximum,
        broadcast,
        versions=(2, 4),
        options="MaximumMinimumOptions",
        roles=_PAIR,
        ties=True,
        keeps_codes=_larger_keeps_codes,
    )
)
MINIMUM = register(
    OperatorKind(
        "MINIMUM",
        minimum,
        broadcast,
        versions=(2, 4),
        options="MaximumMinimumOptions",
        roles=_PAIR,
        ties=True,
    )
)
