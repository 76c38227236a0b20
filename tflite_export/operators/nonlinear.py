"""Activation functions that are straight lines, and the hard swish."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from tflite_export.graph import fixed_point, limits
from tflite_export.graph.case import Case
from tflite_export.graph.kinds import Attribute, InputScale, OperatorKind, register
from tflite_export.graph.operand_rules import activation_problems
from tflite_export.graph.proofs import said
from tflite_export.graph.shapes import broadcast, same
from tflite_export.operators.elementwise import product_overflow
from tflite_export.operators.operands import Operands
from tflite_export.operators.rescaling import rescaling_overflow
from tflite_export.operators.stored import MEASURED_IN_TFLM, QUOTIENT_IN_TFLM, RESCALED_BY_XNNPACK


def clamped(operands: Operands) -> np.ndarray:
    """ReLU and ReLU6."""
    values = fixed_point.multiply(operands.centred(), _quotient(operands))
    return operands.finished(values, activation=operands.kind.clamp)


def absolute(operands: Operands) -> np.ndarray:
    values = np.abs(operands.centred())
    return operands.finished(fixed_point.multiply(values, _quotient(operands)))


def leaky_relu(operands: Operands) -> np.ndarray:
    values, alpha = operands.centred(), np.float32(operands.attributes["alpha"])
    above = fixed_point.multiply(values, _quotient(operands))
    scale, output_scale = operands.scales()
    real = np.float64(scale * alpha / output_scale)
    below = np.sign(real) * fixed_point.multiply(values, abs(real))
    return operands.finished(np.where(values >= 0, above, below.astype(np.int64)))


def prelu(operands: Operands) -> np.ndarray:
    values, slopes = operands.centred(), operands.centred(1)
    above = fixed_point.multiply(values, _quotient(operands))
    scale, slope_scale, output_scale = operands.scales()
    real = np.float64(scale * slope_scale / output_scale)
    below = fixed_point.multiply(values * slopes, real)
    return operands.finished(np.where(values >= 0, above, below))


def _quotient(operands: Operands) -> np.float64:
    """Input scale / output scale: the quotient that these kernels take is a float32 one."""
    scale, *_, output_scale = operands.scales()
    return np.float64(scale / output_scale)


def hard_swish(operands: Operands) -> np.ndarray:
    """x * relu6(x + 3) / 6 in 16-bit fixed point."""
    widened = operands.centred() << 7
    # The kernel's multipliers are float32 quotients.
    scale = operands.inputs[0].quantization.scale[0] / np.float32(128)
    output_fraction, output_exponent = _narrow(scale / operands.output.quantization.scale[0])
    gate_fraction, gate_exponent = _narrow(scale / np.float32(3.0 / 32768.0))
    scaled = _high_multiply(widened, output_fraction)
    gate = _gate(widened, gate_fraction, gate_exponent)
    product = fixed_point.truncated_divide(gate * scaled, 2**15)
    if output_exponent <= -16:
        # The kernel's mask of the lost bits does not fit into int16: nothing rounds to 1.
        return operands.finished(np.where(product >= 0, 1, -1))
    return operands.finished(fixed_point.rounding_right_shift(product, -output_exponent))


def _narrow(real: np.float32) -> tuple[int, int]:
    """A 15-bit fraction and an exponent."""
    fraction, exponent = fixed_point.quantize_multiplier(float(real))
    return min((int(fraction) + 2**15) >> 16, 2**15 - 1), int(exponent)


def _gate(values: np.ndarray, fraction: int, exponent: int) -> np.ndarray:
    """relu6(x + 3) / 6 with 15 fractional bits."""
    if exponent > 0:
        values = _saturated(values << (exponent - 1))
    values = _high_multiply(values, fraction)
    if exponent > 0:
        values = _saturated(values << 1)
    if exponent < 0:
        values = fixed_point.rounding_right_shift(values, -exponent)
    return (values + 2**15) >> 1


def _high_multiply(values: np.ndarray, fraction: int) -> np.ndarray:
    """round(values * fraction / 2^15) of 16-bit operands."""
    product = values * fraction
    nudge = np.where(product >= 0, 2**14, 1 - 2**14)
    return fixed_point.truncated_divide(product + nudge, 2**15)


def _saturated(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -(2**15), 2**15 - 1)


def _prelu_overflow(case: Case) -> Iterator[str]:
    yield from rescaling_overflow(case)
    yield from product_overflow(case)


def _hard_swish_overflow(case: Case) -> Iterator[str]:
    ratio, bound = case.scale() / case.output_scale, limits.HARD_SWISH_RATIO
    if ratio >= bound:
        yield said(ratio, "its input scale / its output scale", f"below {bound:g}")


def _slope_problems(case: Case) -> Iterator[str]:
    slopes = case.tensor("slopes")
    if slopes.dtype != "int8":
        yield (
            f"the slopes are {slopes.dtype}, need int8, also under "
            "int16 activations: kernels read int16 slopes wrongly"
        )
    yield from activation_problems(slopes)


RELU = register(
    OperatorKind(
        "RELU",
        clamped,
        same,
        versions=(2, 3),
        clamp="RELU",
        overflow=rescaling_overflow,
        tolerances=QUOTIENT_IN_TFLM,
    )
)
RELU6 = register(dataclasses.replace(RELU, name="RELU6", clamp="RELU6"))
ABS = register(
    OperatorKind(
        "ABS",
        absolute,
        same,
        versions=(2, 3),
        options="AbsOptions",
        overflow=rescaling_overflow,
        tolerances=QUOTIENT_IN_TFLM,
    )
)
LEAKY_RELU = register(
    OperatorKind(
        "LEAKY_RELU",
        leaky_relu,
        same,
        versions=(1, 2),
        options="LeakyReluOptions",
        attributes={"alpha": Attribute("alpha")},
        overflow=rescaling_overflow,
        tolerances=RESCALED_BY_XNNPACK | QUOTIENT_IN_TFLM,
    )
)
PRELU = register(
    OperatorKind(
        "PRELU",
        prelu,
        broadcast,
        versions=(1, 1),
        roles=("input", "slopes"),
        own_types=("slopes",),
        operands=_slope_problems,
        overflow=_prelu_overflow,
        tolerances=QUOTIENT_IN_TFLM,
    )
)
HARD_SWISH = register(
    OperatorKind(
        "HARD_SWISH",
        hard_swish,
        same,
        versions=(1, 1),
        options="HardSwishOptions",
        overflow=_hard_swish_overflow,
        input_scales={"int8": InputScale(limits.LOWEST_SCALE, 2.0**20)},
        tolerances={("tflm", "int8"): MEASURED_IN_TFLM},
    )
)
