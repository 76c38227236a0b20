"""Results that no integer of the input has: where a function grows without bound towards zero."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from tfeptq.canonical.integer_types import activation_range
from tfeptq.canonical.layer_graph import Call
from tfeptq.canonical.primitives import find_primitive
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.written import Written


def narrow_steep_results(written: Written, alone: Collection[str]) -> None:
    """Ends the ranges of inverse roots at the result of half a step of their inputs.

    A row of zeros, as padding has them, has an inverse root of 1e12; it is multiplied by zero. Its
    kernel reads integer zero, as for all that is below half a step, and answers with the end of
    the range: beyond it there are no results, only codes that the others lack.

    Args:
        written: inputs have their ranges.
        alone: names of quantizers that serve one tensor.
    """
    for kernel in written.computing():
        row, target = find_primitive(kernel.layer), kernel.target
        is_steep = row is not None and row.is_steep
        if not is_steep or target.fixed is not None or target.name not in alone:
            continue
        largest = _result_of_half_a_step(kernel.call, kernel.sources[0])
        low, high = _range(target)
        if 0.0 < largest < high:
            target.set_range(low, largest)


def _result_of_half_a_step(call: Call, source: ActivationQuantizer) -> float:
    scale, _ = source.parameters()
    half = np.full((1, 1), float(scale) / 2.0, np.float32)
    return np.asarray(call([half])).item()


def _range(quantizer: ActivationQuantizer) -> tuple[float, float]:
    scale, zero_point = quantizer.parameters()
    first, last = activation_range(quantizer.bits)
    return (first - zero_point) * float(scale), (last - zero_point) * float(scale)
