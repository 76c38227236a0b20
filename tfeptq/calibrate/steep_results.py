"""Results that no integer of the input has: where a function grows without bound towards zero."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from tfeptq.canonical.integer_types import activation_range
from tfeptq.canonical.layer_graph import Call
from tfeptq.canonical.primitives import Magnitude, find_primitive
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.written import Written, WrittenKernel

#: A table is steep whose result at zero is so many times that of half a step of its input.
_STEEP = 2.0


def narrow_steep_results(
    written: Written, alone: Collection[str], least: Mapping[str, float]
) -> None:
    """Ends the ranges of inverses and inverse roots at the result of half a step of their inputs.

    A row of zeros, as padding has them, has an inverse root of 1e12; it is multiplied by zero. Its
    kernel reads integer zero, as for all that is below half a step, and answers with the end of
    the range: beyond it there are no results, only codes that the others lack.

    Args:
        written: all quantizers have their ranges.
        alone: names of quantizers that serve one tensor.
        least: smallest value of what each quantizer serves, by its name.
    """
    kernels = written.computing()
    outputs = written.output_quantizers()
    for kernel in kernels:
        row, target = find_primitive(kernel.layer), kernel.target
        if row is None or target.fixed is not None or target.name not in alone:
            continue
        source = kernel.sources[0]
        if row.is_steep:
            scale, _ = source.parameters()
            (largest,) = _results(kernel.call, [float(scale) / 2.0])
        elif row.tabulates and target not in outputs and least.get(source.name, -np.inf) >= 0.0:
            largest = _of_divisor(kernel, [each for each in kernels if target in each.sources])
        else:
            continue
        low, high = _range(target)
        if 0.0 < largest < high:
            # Ranges of 16 bits have equal sides.
            target.set_range(max(low, -largest), largest)


def _of_divisor(kernel: WrittenKernel, readers: Sequence[WrittenKernel]) -> float:
    """Largest result that the products which read a table need; infinite where it is not steep."""
    source = kernel.sources[0]
    if not (readers and all(_multiplies(each, kernel.target) for each in readers)):
        return np.inf
    scale, zero_point = source.parameters()
    _, last = activation_range(source.bits)
    steps = np.array([0.0, 0.5, *range(1, last - int(zero_point) + 1)])
    at_zero, at_half, *others = _results(kernel.call, float(scale) * steps)
    if not (at_zero >= _STEEP * at_half and at_half >= max(others)):
        return np.inf
    return max(at_half, *(_factor(each, kernel.target) for each in readers))


def _multiplies(reader: WrittenKernel, factor: ActivationQuantizer) -> bool:
    """Whether it computes a product of one tensor and another."""
    row = find_primitive(reader.layer)
    is_product = row is not None and row.magnitude is Magnitude.PRODUCT
    return is_product and set(reader.sources) != {factor}


def _factor(product: WrittenKernel, target: ActivationQuantizer) -> float:
    """What the largest result of a product takes at least, of one of its factors."""
    other = next(each for each in product.sources if each is not target)
    return float(_magnitude(product.target) / _magnitude(other))


def _results(call: Call, numbers: Sequence[float] | np.ndarray) -> list[float]:
    column = np.asarray(numbers, np.float32)[:, None]
    return [float(result) for result in np.ravel(call([column]))]


def _magnitude(quantizer: ActivationQuantizer) -> float:
    return max(map(abs, _range(quantizer)))


def _range(quantizer: ActivationQuantizer) -> tuple[float, float]:
    scale, zero_point = quantizer.parameters()
    first, last = activation_range(quantizer.bits)
    return (first - zero_point) * float(scale), (last - zero_point) * float(scale)
