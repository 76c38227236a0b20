"""How far each runtime's kernels may be from the integer reference, as data with the reasons.

Measured with one-operator files (tests/tflite_export/targets/test_conformance.py). What is not
listed is bit-identical.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from tflite_export import operators as reference
from tflite_export.graph.structure import Operator, Tensor, is_shares

#: One, in LiteRT's coordinates of RESIZE_BILINEAR.
_COORDINATE = 1 << 10
_INT8_CONTRAST = 255

_XNNPACK = "XNNPACK requantizes in float32 and rounds half to even"
_XNNPACK_BILINEAR = (
    "XNNPACK interpolates at exact coordinates, LiteRT steps by a scale of 10 fractional bits, "
    "whose error grows with the size of the output; this comes on top"
)
_POWER_OF_TWO = (
    "at input scales of 2^-12, and 2^-11 for tanh, the optimized kernel evaluates the function in "
    "fixed point, the reference kernel interpolates a table"
)
_SUM_OF_16_BITS = (
    "the optimized kernel's sum, before it is rescaled, differs from the reference kernel's in the "
    "last bit; that decides where it is halfway, in about one of 10^5 results"
)
_FLOAT_SHARES = (
    "the optimized kernel adds up float32 exponentials from a table and rounds the share, the "
    "reference kernel works in fixed point; that decides a tie in one or a few of 10^5 results"
)
_ROUNDED_TWICE = "TFLM's kernel rounds twice where LiteRT's rounds once"
_MEASURED = "TFLM's kernel rescales a little differently; measured, the cause is not established"

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_RESCALED_BY_XNNPACK = (*_WEIGHTED, "ADD", "SUB", "MUL", "MEAN", "LEAKY_RELU", "QUANTIZE")

#: (runtime, operator, type of its output) -> (largest difference in LSB, why).
TOLERANCE: dict[tuple[str, str, str], tuple[int, str]] = {
    **{("litert", kind, "int8"): (1, _XNNPACK) for kind in _RESCALED_BY_XNNPACK},
    ("litert", "RESIZE_BILINEAR", "int8"): (1, _XNNPACK_BILINEAR),
    ("litert", "SOFTMAX", "int8"): (1, _FLOAT_SHARES),
    ("litert", "ADD", "int16"): (1, _SUM_OF_16_BITS),
    ("litert", "LOGISTIC", "int16"): (7, _POWER_OF_TWO),
    ("litert", "TANH", "int16"): (12, _POWER_OF_TWO),
    ("tflm", "FULLY_CONNECTED", "int8"): (1, _ROUNDED_TWICE),
    ("tflm", "FULLY_CONNECTED", "int16"): (1, _ROUNDED_TWICE),
    ("tflm", "HARD_SWISH", "int8"): (1, _MEASURED),
    **{
        ("tflm", kind, "int16"): (1, _MEASURED)
        for kind in ("MUL", "RELU", "RELU6", "LEAKY_RELU", "PRELU", "SOFTMAX")
    },
}


def tolerance(runtime: str, operator: Operator, tensors: Mapping[str, Tensor]) -> int:
    """Largest difference in LSB that a runtime's operator may have from the integer reference."""
    kind, dtype = operator.kind, tensors[operator.outputs[0]].dtype
    inherent = reference.TOLERANCE.get((kind, dtype), (0, ""))[0]
    allowed = max(inherent, TOLERANCE.get((runtime, kind, dtype), (0, ""))[0])
    if (runtime, kind, dtype) == ("litert", "RESIZE_BILINEAR", "int8"):
        allowed += _drift(operator, tensors)
    if (runtime, kind) == ("litert", "SOFTMAX") and is_shares(tensors[operator.outputs[0]]):
        allowed += _rounded_exponentials(operator, tensors)
    return allowed


def _rounded_exponentials(operator: Operator, tensors: Mapping[str, Tensor]) -> int:
    """LSB of the 16-bit share of a value that takes all, by exact exponentials and by rounded ones.

    The optimized kernel adds up floats, the reference kernel multiples of 2^-19: of those that are
    far below the largest each is up to half of that off.
    """
    values = tensors[operator.inputs[0]].shape[-1]
    return 1 + math.ceil(2**16 * values * 2.0**-20)


def _drift(operator: Operator, tensors: Mapping[str, Tensor]) -> int:
    """LSB between two pixels of the largest contrast, by LiteRT's coordinates and by exact ones."""
    sizes = tensors[operator.inputs[0]].shape[1:3]
    pixels = 0.0
    for size, outputs in zip(sizes, operator.attributes["size"], strict=True):
        step = (_COORDINATE * size + outputs // 2) // outputs / _COORDINATE
        # Half a step where pixels are centred, and its own rounding.
        pixels += outputs * abs(step - size / outputs) + 1 / _COORDINATE
    return math.ceil(_INT8_CONTRAST * pixels)
