"""Proof that no kernel leaves the numbers that it can hold, whatever integers come in.

Kernels do not check: sums wrap around, multipliers out of range end the process or give garbage.
The bounds are in `tflite_export.graph.limits`; here they are applied to every operator of a graph,
in exact integers and in the float64 arithmetic with which kernels derive their multipliers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from tflite_export.graph import limits
from tflite_export.graph.fixed_point import quantize_multiplier
from tflite_export.graph.structure import IntegerGraph, Operator, Tensor

_ADVICE = (
    "`tfeptq.quantize` chooses scales within these bounds; a tensor that is zero or nearly so in "
    "all calibration samples has no scale to choose: give samples that use it"
)


@dataclasses.dataclass(frozen=True)
class _Case:
    """An operator with its tensors."""

    operator: Operator
    inputs: list[Tensor]
    output: Tensor

    @property
    def dtype(self) -> str:
        return self.output.dtype

    @property
    def output_scale(self) -> np.float64:
        return np.float64(self.output.quantization.scale[0])

    def scale(self, index: int = 0) -> np.float64:
        return np.float64(self.inputs[index].quantization.scale[0])

    def reach(self, index: int = 0) -> int:
        """Largest distance of an input's integer from its zero point."""
        return largest_distance(self.inputs[index])


def prove(graph: IntegerGraph, *, target: str | None = None) -> IntegerGraph:
    """Returns `graph` if no integers at its inputs can overflow anything.

    Args:
        target: adds what only its runtime cannot hold; None: what holds in all of them.

    Raises:
        ValueError: names the tensor, or the operator and its layer, what was found and what is
            allowed.
    """
    for tensor in graph.tensors.values():
        for problem in _scale_problems(tensor):
            raise ValueError(f"tensor {tensor.name!r}: {problem}; {_ADVICE}")
    for operator in graph.operators:
        for problem in problems(graph, operator, target=target):
            raise ValueError(
                f"operator {operator.kind} of layer {operator.layer!r}: {problem}; {_ADVICE}"
            )
    return graph


def problems(
    graph: IntegerGraph, operator: Operator, *, target: str | None = None
) -> Iterator[str]:
    """What the kernel of an operator cannot hold, one sentence each."""
    inputs = [graph.tensors[name] for name in operator.inputs]
    case = _Case(operator, inputs, graph.tensors[operator.outputs[0]])
    if operator.kind in _RULES:
        yield from _RULES[operator.kind](case)
    if target in limits.TFLM_TARGETS or (operator.kind, case.dtype) not in limits.TFLM_ONLY:
        yield from _input_scale(case)
    yield from _relu6(case)


def largest_distance(tensor: Tensor) -> int:
    """Of the integers that a tensor can hold from its zero point."""
    if tensor.data is not None:
        return int(np.abs(tensor.data.astype(np.int64) - tensor.quantization.zero_point).max())
    return max(map(abs, limits.reach(tensor.dtype, tensor.quantization.zero_point)))


def accumulators(source: Tensor, weights: Tensor, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest sum of products of each output channel, int64; never above or below 0.

    Args:
        axis: of the channels in `weights`.
    """
    assert weights.data is not None
    by_channel = np.moveaxis(weights.data, axis, 0).reshape(weights.shape[axis], -1)
    by_channel = by_channel.astype(np.int64)
    positive = np.maximum(by_channel, 0).sum(axis=1)
    negative = np.minimum(by_channel, 0).sum(axis=1)
    lowest, highest = limits.reach(source.dtype, source.quantization.zero_point)
    return (
        positive * lowest + negative * highest,
        positive * highest + negative * lowest,
    )


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


def _weighted(case: _Case) -> Iterator[str]:
    axis = 3 if case.operator.kind == "DEPTHWISE_CONV_2D" else 0
    low, high = accumulators(case.inputs[0], case.inputs[1], axis)
    weight_scales = case.inputs[1].quantization.scale.astype(np.float64)
    multiplier = case.scale() * weight_scales / case.output_scale
    bias = np.zeros(1, np.int64)
    if len(case.inputs) > 2:
        assert case.inputs[2].data is not None
        bias = case.inputs[2].data.astype(np.int64)
    # Every partial sum, with the bias first or last, lies between these.
    partial = np.maximum(np.abs(low + np.minimum(bias, 0)), np.abs(high + np.maximum(bias, 0)))
    yield from _exceeding(partial, limits.ACCUMULATOR[case.dtype], "the sum of products and bias")
    bound = limits.MULTIPLIER[case.dtype]
    if np.any(multiplier >= bound):
        yield _said(multiplier, "input scale * weight scale / output scale", f"below {bound:g}")
    final = np.maximum(np.abs(low + bias), np.abs(high + bias))
    lost = np.where(quantize_multiplier(multiplier)[0] == 0, final * multiplier, 0.0)
    yield from _exceeding(lost, 0.5, "what a multiplier loses that kernels take for 0")
    wide = case.dtype == "int16"
    yield from _results(final * multiplier if wide else _shifted(final, multiplier))


def _rescaling(case: _Case) -> Iterator[str]:
    """Of one tensor to the output's scale, by a slope where there is one."""
    slope = abs(float(case.operator.attributes.get("alpha", 1.0)))
    multiplier = case.scale() / case.output_scale * max(slope, 1.0)
    yield from _results(_shifted(case.reach(), multiplier))


def _prelu(case: _Case) -> Iterator[str]:
    yield from _rescaling(case)
    yield from _product(case)


def _product(case: _Case) -> Iterator[str]:
    multiplier = case.scale(0) * case.scale(1) / case.output_scale
    yield from _results(_shifted(case.reach(0) * case.reach(1), multiplier))


def _sum(case: _Case) -> Iterator[str]:
    ratio = 2.0 * max(case.scale(0), case.scale(1)) / case.output_scale
    bound = limits.SUM_RATIO[case.dtype]
    if ratio >= bound:
        yield _said(ratio, "twice its larger input scale / its output scale", f"below {bound:g}")


def _mean(case: _Case) -> Iterator[str]:
    count = int(np.prod([case.inputs[0].shape[axis] for axis in case.operator.attributes["axes"]]))
    source = case.inputs[0]
    low, high = limits.reach(source.dtype, source.quantization.zero_point)
    sums = max(-count * low - 1, count * high)
    yield from _exceeding(sums, limits.INT32, f"the sum of {count} positions")
    # The division by the count is part of the multiplier, but for the bits that it rounds off.
    multiplier = case.scale() / case.output_scale
    yield from _results(_shifted(2 * case.reach(), multiplier))


def _average(case: _Case) -> Iterator[str]:
    attributes, shape = case.operator.attributes, case.inputs[0].shape
    count = min(attributes["filter_h"], shape[1]) * min(attributes["filter_w"], shape[2])
    largest = 2**15 if case.dtype == "int16" else 2**7
    yield from _exceeding(
        count * largest + count // 2, limits.INT32, f"the sum of {count} positions"
    )


def _hard_swish(case: _Case) -> Iterator[str]:
    ratio, bound = case.scale() / case.output_scale, limits.HARD_SWISH_RATIO
    if ratio >= bound:
        yield _said(ratio, "its input scale / its output scale", f"below {bound:g}")


def _input_scale(case: _Case) -> Iterator[str]:
    low, high = limits.INPUT_SCALES.get(case.operator.kind, {}).get(case.dtype, (0.0, np.inf))
    if not low <= case.scale() <= high:
        yield _said(case.scale(), "its input scale", f"{low:.3g} to {high:.3g}")


def _relu6(case: _Case) -> Iterator[str]:
    is_relu6 = "RELU6" in (case.operator.kind, case.operator.attributes.get("activation"))
    if is_relu6 and case.output_scale < limits.RELU6_SCALE:
        yield _said(
            case.output_scale, "its output scale under ReLU6", f"{limits.RELU6_SCALE:.3g} on"
        )


def _shifted(values: np.ndarray | int, multiplier: np.ndarray | np.float64) -> np.ndarray:
    """What an int32 register holds on the way: multipliers above one shift to the left first."""
    _, exponent = quantize_multiplier(multiplier)
    return np.asarray(values, np.float64) * 2.0 ** np.maximum(exponent, 0)


def _results(values: np.ndarray) -> Iterator[str]:
    yield from _exceeding(values, limits.RESULT, "the result before it is cut to its type")


def _exceeding(values: np.ndarray | int, bound: float, what: str) -> Iterator[str]:
    if np.any(np.asarray(values) > bound):
        yield _said(values, what, f"at most {bound}")


def _said(values: np.ndarray | float, what: str, allowed: str) -> str:
    values = np.asarray(values, np.float64)
    where = f" of channel {int(values.argmax())}" if values.size > 1 else ""
    return f"{what}{where} can be {values.max():.6g}, allowed is {allowed}"


_RULES: dict[str, Callable[[_Case], Iterator[str]]] = {
    "CONV_2D": _weighted,
    "DEPTHWISE_CONV_2D": _weighted,
    "FULLY_CONNECTED": _weighted,
    "ADD": _sum,
    "SUB": _sum,
    "MUL": _product,
    "MEAN": _mean,
    "AVERAGE_POOL_2D": _average,
    "QUANTIZE": _rescaling,
    "RELU": _rescaling,
    "RELU6": _rescaling,
    "LEAKY_RELU": _rescaling,
    "PRELU": _prelu,
    "HARD_SWISH": _hard_swish,
}
