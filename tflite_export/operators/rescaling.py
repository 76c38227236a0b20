"""Requantization: the same numbers in another type or scale."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tflite_export.graph import fixed_point
from tflite_export.graph.case import Case
from tflite_export.graph.kinds import OperatorKind, register
from tflite_export.graph.proofs import results, shifted
from tflite_export.graph.shapes import same
from tflite_export.operators.operands import Operands
from tflite_export.operators.stored import RESCALED_BY_XNNPACK

#: To floats, which no integer graph holds: only ends of files convert so.
DEQUANTIZE = "DEQUANTIZE"


def quantize(operands: Operands) -> np.ndarray:
    """Requantization between integer types or parameters."""
    real = operands.scale() / operands.output_scale
    return operands.finished(fixed_point.multiply(operands.centred(), real))


def rescaling_overflow(case: Case) -> Iterator[str]:
    """Of one tensor to the output's scale, by a slope where there is one."""
    slope = abs(float(case.attributes.get("alpha", 1.0)))
    multiplier = case.scale() / case.output_scale * max(slope, 1.0)
    yield from results(shifted(case.reach(), multiplier))


QUANTIZE = register(
    OperatorKind(
        "QUANTIZE",
        quantize,
        same,
        versions=(2, 2),
        options="QuantizeOptions",
        converts=True,
        overflow=rescaling_overflow,
        tolerances=RESCALED_BY_XNNPACK,
    )
)
