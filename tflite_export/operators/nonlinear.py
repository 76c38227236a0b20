"""Activation functions and requantization."""

from __future__ import annotations

import numpy as np

from tflite_export.graph import fixed_point
from tflite_export.operators.operands import Operands


def quantize(operands: Operands) -> np.ndarray:
    """Requantization between integer types or parameters."""
    real = operands.scale() / operands.output_scale
    return operands.finished(fixed_point.multiply(operands.centred(), real))


def relu(operands: Operands) -> np.ndarray:
    return _clamped(operands, "RELU")


def relu6(operands: Operands) -> np.ndarray:
    return _clamped(operands, "RELU6")


def _clamped(operands: Operands, activation: str) -> np.ndarray:
    # The multiplier of this kernel is a float32 quotient.
    scales = [tensor.quantization.scale[0] for tensor in (*operands.tensors, operands.output)]
    real = np.float64(scales[0] / scales[1])
    values = fixed_point.multiply(operands.centred(), real)
    return operands.finished(values, activation=activation)


def leaky_relu(operands: Operands) -> np.ndarray:
    scale, output_scale = (
        tensor.quantization.scale[0] for tensor in (operands.tensors[0], operands.output)
    )
    alpha = np.float32(operands.operator.attributes["alpha"])
    return _two_slopes(
        operands,
        operands.centred(),
        positive=np.float64(scale / output_scale),
        negative=np.float64(scale * alpha / output_scale),
    )


def prelu(operands: Operands) -> np.ndarray:
    scale, alpha_scale, output_scale = (
        tensor.quantization.scale[0] for tensor in (*operands.tensors, operands.output)
    )
    slopes = operands.centred(1)
    values = operands.centred()
    real = np.float64(scale * alpha_scale / output_scale)
    negative = fixed_point.multiply(values * slopes, real)
    positive = fixed_point.multiply(values, np.float64(scale / output_scale))
    return operands.finished(np.where(values >= 0, positive, negative))


def _two_slopes(
    operands: Operands, values: np.ndarray, *, positive: np.float64, negative: np.float64
) -> np.ndarray:
    above = fixed_point.multiply(values, positive)
    below = np.sign(negative) * fixed_point.multiply(values, abs(negative))
    return operands.finished(np.where(values >= 0, above, below.astype(np.int64)))


def hard_swish(operands: Operands) -> np.ndarray:
    """x * relu6(x + 3) / 6 in 16-bit fixed point."""
    widened = operands.centred() << 7
    # The kernel's multipliers are float32 quotients.
    scale = operands.tensors[0].quantization.scale[0] / np.float32(128)
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
