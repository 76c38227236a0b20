"""Functions that are curves: logistic, hyperbolic tangent, ELU, exponential and GELU.

int8 kernels tabulate them in float32. int16 kernels of the logistic function and the hyperbolic
tangent interpolate one table, which serves both because tanh(x) = 2 logistic(2 x) - 1; those of the
others interpolate tables that they make of the scales at hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tflite_export.graph import fixed_point, limits
from tflite_export.graph.case import Case
from tflite_export.graph.kinds import (
    ANY_RUNTIME,
    Attribute,
    InputScale,
    OperatorKind,
    Tolerance,
    register,
)
from tflite_export.graph.proofs import results
from tflite_export.graph.shapes import same
from tflite_export.operators.interpolation import Function, look_up, table
from tflite_export.operators.operands import Operands

#: Nodes of the logistic table and their number in one unit of its argument.
_NODES, _NODES_PER_UNIT = 256, 24
#: The 16-bit kernels count the input in units of 1 / (3 * 2^12): +-2^15 of them are +-10.7.
_INPUT_BITS = 12


def logistic(operands: Operands) -> np.ndarray:
    if operands.output.dtype == "int8":
        return _tabulated(operands, _logistic_in_float32)
    position = _position(operands, power_of_two_shifts=(0,))
    magnitude = _interpolated(np.abs(position), between_bits=9, highest=0x7FFF << 10)
    unit = 2**10
    # Rounded towards plus infinity above zero and its mirror image below.
    below = (1 << 25) - magnitude + unit // 2 - 1
    return _as_int16(np.where(position >= 0, magnitude + unit // 2, below) >> 10)


def tanh(operands: Operands) -> np.ndarray:
    if operands.output.dtype == "int8":
        return _tabulated(operands, np.tanh)
    position = _position(operands, power_of_two_shifts=(0, 1))
    magnitude = _interpolated(np.abs(position), between_bits=8, highest=0xFFFF << 8) - 2**23
    return _as_int16(np.where(position >= 0, magnitude + 2**7, 2**7 - 1 - magnitude) >> 8)


def elu(operands: Operands) -> np.ndarray:
    return _tabulated(
        operands, lambda values: np.where(values < 0, np.expm1(np.minimum(values, 0)), values)
    )


def exponential(operands: Operands) -> np.ndarray:
    return _tabulated_or_interpolated(operands, np.exp)


def gelu(operands: Operands) -> np.ndarray:
    return _tabulated_or_interpolated(
        operands, _gelu_by_tanh if operands.attributes["approximate"] else _gelu
    )


def _gelu(values: np.ndarray) -> np.ndarray:
    errors = np.array([math.erf(value) for value in values / math.sqrt(2.0)])
    return 0.5 * values * (1.0 + errors)


def _gelu_by_tanh(values: np.ndarray) -> np.ndarray:
    return 0.5 * values * (1.0 + np.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)))


def _tabulated_or_interpolated(operands: Operands, function: Function) -> np.ndarray:
    """All integers of int8; of int16, 513 nodes between which kernels interpolate."""
    if operands.output.dtype == "int8":
        return _tabulated(operands, function)
    scale, made = (np.float64(each) for each in operands.scales())
    # Kernels take the lowest and the highest integer to be 2^16 steps apart.
    unit = made * (2**16 - 1) / 2**16
    nodes = table(function, start=-(2**15) * scale, stop=(2**15 - 1) * scale, unit=unit)
    return look_up(nodes, operands.arrays[0].astype(np.int64)).astype(np.int16)


def _tabulated(operands: Operands, function: Function) -> np.ndarray:
    """The function of all integers of a type, evaluated in float32 as the kernels prepare it."""
    tensor, output = operands.inputs[0], operands.output
    low, high = np.iinfo(tensor.dtype).min, np.iinfo(tensor.dtype).max
    integers = np.arange(low, high + 1) - tensor.quantization.zero_point
    # The double result, rounded, is what an accurate float32 library function returns.
    arguments = tensor.quantization.scale[0] * integers.astype(np.float32)
    values = function(arguments.astype(np.float64)).astype(np.float32)
    inverse = np.float32(1) / output.quantization.scale[0]
    outputs = operands.finished(fixed_point.round_half_away(values * inverse))
    return outputs[operands.arrays[0].astype(np.int64) - low]


def _logistic_in_float32(values: np.ndarray) -> np.ndarray:
    exponential = np.exp(-values).astype(np.float32)
    return np.float32(1) / (np.float32(1) + exponential)


def _logistic_table() -> np.ndarray:
    """logistic(i / 24) with 16 fractional bits."""
    arguments = np.arange(_NODES)
    begin, middle, end = (
        2.0**16 / (1 + np.exp(-(arguments + part) / _NODES_PER_UNIT)) for part in (0.0, 0.5, 1.0)
    )
    # Half of the error that the interpolation has in the middle of a segment goes to its node.
    table = fixed_point.round_half_away(begin - ((begin + end) / 2 - middle) / 2)
    # The last node is the value that the function saturates at.
    table[-1] = 2**16 - 1
    return table


_TABLE = _logistic_table()


def _position(operands: Operands, *, power_of_two_shifts: tuple[int, ...]) -> np.ndarray:
    """The input in the units of the table.

    Args:
        power_of_two_shifts: exponents, relative to 2^-12, of the input scales that the kernel
            multiplies exactly.
    """
    scale = operands.inputs[0].quantization.scale[0]
    exponent = _power_of_two(scale)
    values = operands.centred()
    if exponent is not None and exponent + _INPUT_BITS in power_of_two_shifts:
        return values * (3 << (exponent + _INPUT_BITS))
    multiplier, shift = np.float64(scale) * 2.0**_INPUT_BITS * 3.0, 0
    while multiplier <= 32767.0 / 2.0 and shift <= 30:
        multiplier, shift = multiplier * 2.0, shift + 1
    return (values * int(multiplier) + ((1 << shift) >> 1)) >> shift


def _power_of_two(scale: np.float32) -> int | None:
    """Exponent of a scale that the kernels take for a power of two."""
    logarithm = np.log(scale) * np.float32(1 / np.log(2.0))
    nearest = np.round(logarithm)
    return int(nearest) if abs(logarithm - nearest) < 1e-3 else None


def _interpolated(magnitude: np.ndarray, *, between_bits: int, highest: int) -> np.ndarray:
    """The logistic table with 16 + `between_bits` fractional bits; `highest` from its last node."""
    index = np.minimum(magnitude >> between_bits, _NODES - 2)
    between = magnitude & (2**between_bits - 1)
    value = (_TABLE[index] << between_bits) + between * (_TABLE[index + 1] - _TABLE[index])
    return np.where(magnitude >> between_bits >= _NODES - 1, highest, value)


def _as_int16(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int16)


def _line_overflow(case: Case) -> Iterator[str]:
    """Kernels round floats to int32 before they are cut to the type, for functions without end."""
    yield from results(np.asarray(case.reach() * case.scale() / case.output_scale))


def _exponential_overflow(case: Case) -> Iterator[str]:
    _, highest = limits.reach(case.inputs[0].dtype, case.inputs[0].quantization.zero_point)
    with np.errstate(over="ignore"):
        yield from results(np.exp(highest * case.scale()) / case.output_scale)


_LIBRARY = Tolerance(
    1,
    "the kernel tabulates the function with the C library's float32 arithmetic, whose last bit "
    "decides between two integers where the function is halfway",
)
_FLOAT_NODES = Tolerance(
    1,
    "the kernel computes the nodes between which it interpolates in float32, whose last bit "
    "decides between two integers",
)
_TABULATED = {(ANY_RUNTIME, "int8"): _LIBRARY, (ANY_RUNTIME, "int16"): _FLOAT_NODES}
_POWER_OF_TWO = (
    "at input scales of 2^-12, and 2^-11 for tanh, the optimized kernel evaluates the function in "
    "fixed point, the reference kernel interpolates a table"
)
_INPUT_SCALES = {
    "int8": InputScale(2.0**-27, 4.0, tflm_only=True),
    "int16": InputScale(2.0**-40, 4.0),
}

LOGISTIC = register(
    OperatorKind(
        "LOGISTIC",
        logistic,
        same,
        versions=(2, 3),
        fixes={"int8": (1 / 256, -128), "int16": (1 / 32768, 0)},
        input_scales=_INPUT_SCALES,
        tolerances={
            (ANY_RUNTIME, "int8"): _LIBRARY,
            ("litert", "int16"): Tolerance(7, _POWER_OF_TWO),
        },
    )
)
TANH = register(
    OperatorKind(
        "TANH",
        tanh,
        same,
        versions=(2, 3),
        fixes={"int8": (1 / 128, 0), "int16": (1 / 32768, 0)},
        input_scales=_INPUT_SCALES,
        tolerances={
            (ANY_RUNTIME, "int8"): _LIBRARY,
            ("litert", "int16"): Tolerance(12, _POWER_OF_TWO),
        },
    )
)
ELU = register(
    OperatorKind(
        "ELU",
        elu,
        same,
        versions=(1, 1),
        overflow=_line_overflow,
        tolerances={(ANY_RUNTIME, "int8"): _LIBRARY},
    )
)
EXP = register(
    OperatorKind(
        "EXP",
        exponential,
        same,
        versions=(2, 2),
        options="ExpOptions",
        overflow=_exponential_overflow,
        tolerances=_TABULATED,
    )
)
GELU = register(
    OperatorKind(
        "GELU",
        gelu,
        same,
        versions=(2, 2),
        options="GeluOptions",
        attributes={"approximate": Attribute("approximate")},
        overflow=_line_overflow,
        tolerances=_TABULATED,
    )
)
