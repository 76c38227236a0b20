"""Softmax over the last axis, in the fixed-point arithmetic of the reference kernels.

Names like q5 say how many integer bits a 32-bit fixed-point number has, the rest is fraction.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np

from tflite_export.graph import fixed_point, limits
from tflite_export.graph.case import Case
from tflite_export.graph.fixed_point import doubling_high_multiply, rounding_right_shift
from tflite_export.graph.kinds import InputScale, OperatorKind, Shape, Tolerance, register
from tflite_export.graph.shapes import require
from tflite_export.graph.structure import is_shares
from tflite_export.operators.interpolation import look_up, table
from tflite_export.operators.operands import Operands
from tflite_export.operators.stored import MEASURED_IN_TFLM

_ONE_Q0 = 2**31 - 1
_ONE_Q2 = 2**29
_QUARTER_Q5 = 2**24
_ARGUMENT_BITS, _SUM_BITS = 5, 12
#: exp(-2^k) for k = -2 … 4, the factors of which every exp(-x) is made.
_FACTORS = [round(float(np.exp(-(2.0**k))) * 2**31) for k in range(-2, 5)]
_EXP_EIGHTH = round(float(np.exp(-1 / 8)) * 2**31)
_THIRD = round(2**31 / 3)
#: Start of Newton's iteration for the reciprocal: 48/17 - 32/17 x.
_NEWTON_START, _NEWTON_SLOPE = round(48 / 17 * _ONE_Q2), round(32 / 17 * _ONE_Q2)
#: exp is taken as zero below -10 by the 16-bit kernel.
_EXP_RANGE = 10.0


def softmax(operands: Operands) -> np.ndarray:
    values = operands.arrays[0].astype(np.int64)
    differences = values - values.max(axis=-1, keepdims=True)
    if operands.inputs[0].dtype == "int16":
        return operands.finished(_int16(differences, operands.scale()))
    bits = np.iinfo(operands.output.dtype).bits
    return operands.finished(_int8(differences, operands.scale(), output_bits=bits))


def _int8(differences: np.ndarray, scale: np.float64, *, output_bits: int) -> np.ndarray:
    """Shares in units of 2^-output_bits, of differences to the largest integer."""
    real = min(scale * 2.0 ** (31 - _ARGUMENT_BITS), 2.0**31 - 1)
    # What is further below than this is exactly zero, so that the shift cannot overflow.
    exponent = int(fixed_point.quantize_multiplier(real)[1])
    radius = ((2**_ARGUMENT_BITS - 1) << (31 - _ARGUMENT_BITS)) >> exponent
    counted = differences >= -radius
    arguments = fixed_point.multiply(np.where(counted, differences, 0), real)
    exponentials = np.where(counted, exponential_q0(arguments), 0)
    total = rounding_right_shift(exponentials, _SUM_BITS).sum(axis=-1, keepdims=True)
    reciprocal, bits = _reciprocal(total)
    product = doubling_high_multiply(reciprocal, exponentials)
    return rounding_right_shift(product, bits + 31 - output_bits)


def exponential_q0(arguments: np.ndarray) -> np.ndarray:
    """exp of q5 numbers that are not positive, as q0."""
    quarter = (arguments & (_QUARTER_Q5 - 1)) - _QUARTER_Q5
    result = _exponential_of_quarter(quarter << _ARGUMENT_BITS)
    remainder = quarter - arguments
    for index, factor in enumerate(_FACTORS):
        taken = remainder & (_QUARTER_Q5 << index)
        result = np.where(taken != 0, doubling_high_multiply(result, factor), result)
    return np.where(arguments == 0, _ONE_Q0, result)


def _exponential_of_quarter(arguments: np.ndarray) -> np.ndarray:
    """exp of q0 numbers in [-1/4, 0): four terms of the Taylor series around -1/8."""
    x = arguments + 2**28
    square = doubling_high_multiply(x, x)
    cube = doubling_high_multiply(square, x)
    fourth = rounding_right_shift(doubling_high_multiply(square, square), 2)
    higher = doubling_high_multiply(fourth + cube, _THIRD) + square
    return _EXP_EIGHTH + doubling_high_multiply(x + rounding_right_shift(higher, 1), _EXP_EIGHTH)


def _reciprocal(total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """1/total of a q12 number: a q0 fraction and the power of two to divide it by."""
    length = _bit_length(total)
    # Kernels end the program where the sum needs more than 32 bits; shares that small are 0.
    normalized = (total << np.maximum(32 - length, 0)) >> np.maximum(length - 32, 0)
    fraction = _one_over_one_plus(normalized - 2**31)
    return fraction, _SUM_BITS - (32 - length)


def _one_over_one_plus(x: np.ndarray) -> np.ndarray:
    """1 / (1 + x) of q0 numbers in [0, 1), by three of Newton's steps."""
    half = (x + _ONE_Q0 + 1) >> 1
    result = _NEWTON_START + doubling_high_multiply(half, -_NEWTON_SLOPE)
    for _ in range(3):
        error = _ONE_Q2 - doubling_high_multiply(half, result)
        result = result + _saturated(doubling_high_multiply(result, error) << 2)
    return _saturated(result << 1)


def _saturated(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -(2**31), _ONE_Q0)


def _bit_length(values: np.ndarray) -> np.ndarray:
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """exp on [-10, 0] and 1 / (1 + x) on [0, 1]."""
    return (
        table(np.exp, start=-_EXP_RANGE, stop=0.0),
        table(lambda x: 1 / (1 + x), start=0.0, stop=1.0),
    )


def _int16(differences: np.ndarray, scale: np.float64) -> np.ndarray:
    """Shares in units of 1/32768, of differences to the largest integer."""
    exponential_table, reciprocal_table = _tables()
    real = scale / (_EXP_RANGE / (2**16 - 1))
    arguments = fixed_point.multiply(differences, real) + 2**15 - 1
    exponentials = look_up(exponential_table, np.clip(arguments, -(2**15), 2**15 - 1))
    total = exponentials.sum(axis=-1, keepdims=True)
    length = _bit_length(total)
    # The sum as 1 + x with 16 fractional bits, x recentred to the range of int16.
    normalized = ((total << (31 - length)) + 2**13) >> 14
    x = np.clip(normalized - 2**16 - 2**15, -(2**15), 2**15 - 1)
    product = exponentials * look_up(reciprocal_table, x)
    return (product + (np.int64(1) << (length - 2))) >> (length - 1)


def _shares(case: Case) -> Shape:
    require(len(case.shapes[0]) >= 1, "a scalar")
    return case.shapes[0]


#: Kernels hold scale * 2^26 of an int8 input as a multiplier greater than one.
_LOWEST_SCALE = 2.0**-26


def _flat_logits(case: Case) -> Iterator[str]:
    (given,) = case.inputs
    scale = float(given.quantization.scale[0])
    if given.dtype == "int8" and scale <= _LOWEST_SCALE:
        yield (
            f"its input has scale {scale:.3g}, kernels abort the program at "
            f"{_LOWEST_SCALE:.3g} and below: the logits are the same for all samples; has the "
            "model been trained?"
        )


def _rounded_exponentials(case: Case) -> int:
    """LSB of the 16-bit share of a value that takes all, by exact exponentials and by rounded ones.

    The optimized kernel adds up floats, the reference kernel multiples of 2^-19: of those that are
    far below the largest each is up to half of that off.
    """
    if not is_shares(case.output):
        return 0
    values = case.inputs[0].shape[-1]
    return 1 + math.ceil(2**16 * values * 2.0**-20)


_FLOAT_SHARES = (
    "the optimized kernel adds up float32 exponentials from a table and rounds the share, the "
    "reference kernel works in fixed point; that decides a tie in one or a few of 10^5 results"
)

SOFTMAX = register(
    OperatorKind(
        "SOFTMAX",
        softmax,
        _shares,
        versions=(2, 3),
        options="SoftmaxOptions",
        written={"beta": 1.0},
        required={"beta": 1.0},
        operands=_flat_logits,
        makes_shares=True,
        fixes={"int8": (1 / 256, -128), "int16": (1 / 32768, 0)},
        input_scales={
            # The int8 kernels hold scale * 2^26 as a multiplier that must be greater than one;
            # those of int16 shift differences of inputs by that of scale * 6553.5.
            "int8": InputScale(2.0**-25, limits.HIGHEST_SCALE),
            "int16": InputScale(limits.LOWEST_SCALE, 4.0),
        },
        # At equal inputs each exponential is 1. int8 kernels divide by a power of two that goes
        # with their sum, at most 2^31 or they abort, and sum 19 bits of fraction in int32; int16
        # kernels sum 15 bits.
        most_values={
            ("int8", "int8"): 511,
            ("int8", "int16"): 4095,
            ("int16", "int16"): limits.INT32 // 32767,
        },
        tolerances={
            ("litert", "int8"): Tolerance(1, _FLOAT_SHARES),
            ("litert", "int16"): Tolerance(0, _FLOAT_SHARES, drift=_rounded_exponentials),
            ("tflm", "int16"): MEASURED_IN_TFLM,
        },
    )
)
