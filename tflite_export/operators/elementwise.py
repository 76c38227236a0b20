"""Arithmetic between two tensors, with broadcasting."""

from __future__ import annotations

import numpy as np

from tflite_export.graph import fixed_point
from tflite_export.operators.operands import Operands

#: Bits by which inputs are widened before they are brought to a common scale.
_WIDENING = {"int8": 20, "int16": 15}


def add(operands: Operands) -> np.ndarray:
    return _sum(operands, 1)


def subtract(operands: Operands) -> np.ndarray:
    return _sum(operands, -1)


def _sum(operands: Operands, sign: int) -> np.ndarray:
    """Both inputs are brought to twice the larger scale, added, and rescaled."""
    widening = _WIDENING[operands.output.dtype]
    common = 2.0 * max(operands.scale(0), operands.scale(1))
    left, right = (
        fixed_point.multiply(operands.centred(index) << widening, operands.scale(index) / common)
        for index in (0, 1)
    )
    real = common / (2.0**widening * operands.output_scale)
    return operands.finished(fixed_point.multiply(left + sign * right, real))


def multiply(operands: Operands) -> np.ndarray:
    # The kernel's multiplier is a product and a quotient in float32.
    scales = [tensor.quantization.scale[0] for tensor in (*operands.tensors, operands.output)]
    real = np.float64(np.float32(scales[0] * scales[1]) / scales[2])
    product = operands.centred(0) * operands.centred(1)
    return operands.finished(fixed_point.multiply(product, real))


def maximum(operands: Operands) -> np.ndarray:
    return np.maximum(operands.aligned(0), operands.aligned(1))


def minimum(operands: Operands) -> np.ndarray:
    return np.minimum(operands.aligned(0), operands.aligned(1))
