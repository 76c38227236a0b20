"""Proof that no kernel leaves the numbers that it can hold, whatever integers come in.

Kernels do not check: sums wrap around, multipliers out of range end the process or give garbage.
The bounds are in `tflite_export.graph.limits`; here they are applied to every operator of a graph,
in exact integers and in the float64 arithmetic with which kernels derive their multipliers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from tflite_export.graph import limits
from tflite_export.graph.activations import RELU6
from tflite_export.graph.case import Case
from tflite_export.graph.fixed_point import quantize_multiplier
from tflite_export.graph.kinds import clamp_of, operand
from tflite_export.graph.signs import is_positive
from tflite_export.graph.structure import IntegerGraph, Operator, Tensor

_ADVICE = (
    "`tfeptq.quantize` chooses scales within these bounds; a tensor that is zero or nearly so in "
    "all calibration samples has no scale to choose: give samples that use it"
)


def prove(graph: IntegerGraph, *, runtimes: Collection[str] = ()) -> IntegerGraph:
    """Returns `graph` if no integers at its inputs can overflow anything.

    Args:
        runtimes: adds what only one of these cannot hold; without: what holds in all of them.

    Raises:
        ValueError: names the tensor, or the operator and its layer, what was found and what is
            allowed.
    """
    for tensor in graph.tensors.values():
        for problem in _scale_problems(tensor):
            raise ValueError(f"tensor {tensor.name!r}: {problem}; {_ADVICE}")
    for operator in graph.operators:
        for problem in problems(graph, operator, runtimes=runtimes):
            raise ValueError(f"{operator.where}: {problem}; {_ADVICE}")
    return graph


def problems(
    graph: IntegerGraph, operator: Operator, *, runtimes: Collection[str] = ()
) -> Iterator[str]:
    """What the kernel of an operator cannot hold, one sentence each."""
    case = Case.of(operator, graph.tensors)
    if case.kind.overflow is not None:
        yield from case.kind.overflow(case)
    yield from _input_scale(case, runtimes)
    yield from _relu6(case)
    for role in case.kind.positive:
        name = operand(operator, role)
        if name is not None and not is_positive(graph.tensors, graph.operators, name):
            yield f"its input {name!r} may be negative, which kernels refuse: put a ReLU before it"


def _scale_problems(tensor: Tensor) -> Iterator[str]:
    low, high = tensor.quantization.scale.min(), tensor.quantization.scale.max()
    # Biases have the product of two scales.
    is_bias = tensor.dtype in ("int32", "int64")
    lowest = limits.LOWEST_UNIT if is_bias else limits.LOWEST_SCALE
    if not lowest <= low <= high <= 1.0 / lowest:
        yield (
            f"its scales go from {low:.3g} to {high:.3g}, kernels compute with scales from "
            f"{lowest:.3g} to {1.0 / lowest:.3g}"
        )


def _input_scale(case: Case, runtimes: Collection[str]) -> Iterator[str]:
    bounds = case.kind.input_scales.get(case.dtype)
    if bounds is None or (bounds.tflm_only and "tflm" not in runtimes):
        return
    if not bounds.low <= case.scale() <= bounds.high:
        yield said(case.scale(), "its input scale", f"{bounds.low:.3g} to {bounds.high:.3g}")


def _relu6(case: Case) -> Iterator[str]:
    if clamp_of(case.operator) == RELU6 and case.output_scale < limits.RELU6_SCALE:
        yield said(
            case.output_scale, "its output scale under ReLU6", f"{limits.RELU6_SCALE:.3g} on"
        )


def shifted(values: np.ndarray | int, multiplier: np.ndarray | np.float64) -> np.ndarray:
    """What an int32 register holds on the way: multipliers above one shift to the left first."""
    _, exponent = quantize_multiplier(multiplier)
    return np.asarray(values, np.float64) * 2.0 ** np.maximum(exponent, 0)


def results(values: np.ndarray) -> Iterator[str]:
    yield from exceeding(values, limits.RESULT, "the result before it is cut to its type")


def exceeding(values: np.ndarray | int, bound: float, what: str) -> Iterator[str]:
    if np.any(np.asarray(values) > bound):
        yield said(values, what, f"at most {bound}")


def said(values: np.ndarray | float, what: str, allowed: str) -> str:
    values = np.asarray(values, np.float64)
    where = f" of channel {int(values.argmax())}" if values.size > 1 else ""
    return f"{what}{where} can be {values.max():.6g}, allowed is {allowed}"
