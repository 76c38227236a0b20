"""The reciprocal of the square root, in the fixed-point arithmetic of the kernels.

A number of q3 has three integer bits and 28 of fraction, one of q0 has 31 of fraction.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tflite_export.graph import fixed_point
from tflite_export.graph.case import Case
from tflite_export.graph.fixed_point import doubling_high_multiply
from tflite_export.graph.kinds import OperatorKind, register
from tflite_export.graph.proofs import exceeding, results, shifted
from tflite_export.graph.shapes import same
from tflite_export.operators.operands import Operands

#: Bits by which 1 / sqrt(x) is widened to stay an integer.
_WIDENING = 20
_ONE_Q3, _HALF_THREE_Q3 = 2**28, 2**28 + 2**27
_HALF_SQRT_2_Q0 = 1518500250
_HIGHEST = 2**31 - 1
_STEPS = 5
_MOST_STEPS = 2.0**11


def rsqrt(operands: Operands) -> np.ndarray:
    values = operands.centred()
    widened = _inverse_roots(np.maximum(values, 1))
    real = _multiplier(operands) * 2.0**-_WIDENING
    # What is zero has the largest result.
    highest = int(np.iinfo(operands.output.dtype).max)
    found = fixed_point.multiply(widened, real)
    return np.where(values <= 0, highest, operands.finished(found)).astype(operands.output.dtype)


def _multiplier(case: Case) -> np.float64:
    # 1 / sqrt(s q) is 1 / sqrt(s) 1 / sqrt(q); the kernel's product is a float32 one.
    scale, made = (tensor.quantization.scale[0] for tensor in (*case.inputs, case.output))
    return 1.0 / np.float64(np.sqrt(scale) * made)


def _inverse_roots(values: np.ndarray) -> np.ndarray:
    """2^20 / sqrt(value) of positive integers, rounded as the kernels do."""
    every, places = np.unique(values, return_inverse=True)
    roots = np.array([_inverse_root(int(value)) for value in every], np.int64)
    return roots[places].reshape(values.shape)


def _inverse_root(value: int) -> int:
    fraction, exponent = _inverse_root_multiplier(value)
    shift = _WIDENING - exponent
    product = doubling_high_multiply(np.array([1 << max(shift, 0)]), fraction)
    return int(fixed_point.rounding_right_shift(product, max(-shift, 0))[0])


def _inverse_root_multiplier(value: int) -> tuple[int, int]:
    """1 / sqrt(value) as a q0 fraction and a right shift, by Newton's steps."""
    if value == 1:
        return _HIGHEST, 0
    exponent = 11
    # Four times as much has half the root: the value goes between 2^27 and 2^29.
    pairs = (31 - value.bit_length()) // 2 - 1
    half = _halved((value << 2 * pairs) >> 1)
    x = _ONE_Q3
    for _ in range(_STEPS):
        cube = _saturated(_product(_product(x, x), x) << 6)
        x = _saturated((_product(_HALF_THREE_Q3, x) - _product(half, cube)) << 3)
    return _product(x, _HALF_SQRT_2_Q0), exponent - pairs


def _halved(value: int) -> int:
    return (value + 1) >> 1


def _product(left: int, right: int) -> int:
    return (left * right + 2**30) >> 31


def _saturated(value: int) -> int:
    return max(min(value, _HIGHEST), -_HIGHEST - 1)


def _overflow(case: Case) -> Iterator[str]:
    # Beyond this kernels shift to the right by more bits than there are; all results are 0.
    steps = np.asarray(1.0 / _multiplier(case))
    yield from exceeding(steps, _MOST_STEPS, "the root of its input scale * its output scale")
    yield from results(shifted(2**_WIDENING, _multiplier(case) * 2.0**-_WIDENING))


RSQRT = register(
    OperatorKind(
        "RSQRT",
        rsqrt,
        same,
        versions=(2, 2),
        positive=("input",),
        overflow=_overflow,
    )
)
