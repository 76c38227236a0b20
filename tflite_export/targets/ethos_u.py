"""What keeps an operator from the Ethos-U: Vela's constraints, as far as a file shows them.

The numbers stand in `ethos_u.toml`, from `vela --supported-ops-report`; where Vela does otherwise
than it says, they are what it does. Operators that break one run on the CPU, in TensorFlow Lite
Micro: slower, not wrong.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from tflite_export.file.options import decode, parted
from tflite_export.file.stored import StoredModel, StoredOperator, StoredTensor
from tflite_export.graph.kinds import WEIGHTS, is_known, kind_of
from tflite_export.graph.operand_rules import INDEX
from tflite_export.targets.findings import Finding

_ADVICE = "change the layer, or accept a slower part of the model"


@dataclasses.dataclass(frozen=True)
class _Place:
    """An operator with its attributes, see `graph.kinds.OperatorKind`, and its tensors."""

    kind: str
    attributes: Mapping[str, Any]
    inputs: Sequence[StoredTensor]
    output: StoredTensor

    @property
    def source(self) -> tuple[int, ...]:
        return self.inputs[0].shape

    def tensor(self, role: str) -> StoredTensor:
        return self.inputs[kind_of(self.kind).roles.index(role)]


_Rule = Callable[[_Place, Mapping[str, Any]], str | None]


def findings(model: StoredModel) -> tuple[Finding, ...]:
    """Operators that Vela leaves on the CPU, with the constraint and the way out."""
    limits = _limits()
    found = []
    for operator in model.operators:
        place = _place(operator, model)
        if place is None:
            continue
        for name in limits["rules"].get(place.kind, ()):
            if (problem := _RULES[name](place, limits)) is not None:
                rule = f"stays on the CPU: {problem}"
                found.append(Finding(model.where(operator), rule, _ADVICE, limits["source"]))
    return tuple(found)


@functools.cache
def _limits() -> Mapping[str, Any]:
    text = resources.files(__package__).joinpath("ethos_u.toml").read_text("utf-8")
    return tomllib.loads(text)["npu"]


def _place(operator: StoredOperator, model: StoredModel) -> _Place | None:
    """None for what the capability table does not know either."""
    if not is_known(operator.kind) or not operator.outputs:
        return None
    if -1 in (*operator.inputs, *operator.outputs):
        return None
    kind = kind_of(operator.kind)
    inputs, constants = parted(kind, [model.tensors[index] for index in operator.inputs])
    known = [constant.values for constant in constants if constant.values is not None]
    if not inputs or len(known) < len(kind.constants):
        return None
    attributes = decode(operator.kind, operator.options, known)
    return _Place(operator.kind, attributes, inputs, model.tensors[operator.outputs[0]])


def _stride(place: _Place, limits: Mapping[str, Any]) -> str | None:
    problem = _large_strides(place, limits)
    return f"{problem} with padding" if problem and _is_padded(place) else None


def _depthwise_stride(place: _Place, limits: Mapping[str, Any]) -> str | None:
    problem = _large_strides(place, limits)
    return f"{problem} in a depthwise convolution" if problem else None


def _transposed(place: _Place, limits: Mapping[str, Any]) -> str | None:
    strides = place.attributes["stride_h"], place.attributes["stride_w"]
    filter_size = place.tensor(WEIGHTS).shape[1:3]
    said = f"strides {strides[0]} x {strides[1]} in a transposed convolution"
    if not _are_transposed_strides(strides, place.source[1:3], filter_size, limits):
        return said
    sides = zip(place.source[1:3], place.output.shape[1:3], strides, filter_size, strict=True)
    for size, made, stride, window in sides:
        rest = 0 if place.attributes["padding"] == "SAME" else max(window - stride, 0)
        if made != size * stride + rest:
            return f"{said} that makes {made} of {size}, need {size * stride + rest}"
    return None


def _narrow_product(place: _Place, limits: Mapping[str, Any]) -> str | None:
    kind = place.inputs[0].type
    return None if kind == "int8" else f"a product of {kind} matrices, need int8"


def _none_of_its_kind(place: _Place, limits: Mapping[str, Any]) -> str | None:
    return "it has no such operator"


def _moved_numbers(place: _Place, limits: Mapping[str, Any]) -> str | None:
    kind = place.output.type
    return f"it moves {kind} numbers of rows" if kind == INDEX else None


def _outer_strides(place: _Place, limits: Mapping[str, Any]) -> str | None:
    stride = place.attributes["strides"][-1]
    return None if stride == 1 else f"a stride of {stride} over the innermost dimension"


def _are_transposed_strides(
    strides: tuple[int, int],
    sizes: Sequence[int],
    filter_size: Sequence[int],
    limits: Mapping[str, Any],
) -> bool:
    """Equal ones, or one along a line of pixels."""
    if max(strides) > max(limits["transposed_strides"]):
        return False
    lines = [size == window == 1 for size, window in zip(sizes, filter_size, strict=True)]
    return strides[0] == strides[1] or any(
        stride == 1 and line for stride, line in zip(strides, lines, strict=True)
    )


def _large_strides(place: _Place, limits: Mapping[str, Any]) -> str | None:
    strides = place.attributes["stride_h"], place.attributes["stride_w"]
    if max(strides) <= limits["stride"]:
        return None
    return f"strides {strides[0]} x {strides[1]}, more than {limits['stride']}"


def _is_padded(place: _Place) -> bool:
    """Whether SAME padding adds anything."""
    if place.attributes["padding"] == "VALID":
        return False
    for axis, side in ((1, "h"), (2, "w")):
        window = _window(place)[axis - 1]
        span = (place.output.shape[axis] - 1) * place.attributes[f"stride_{side}"] + window
        if span > place.source[axis]:
            return True
    return False


def _window(place: _Place) -> tuple[int, int]:
    """Height and width that one result looks at."""
    if "filter_h" in place.attributes:
        return place.attributes["filter_h"], place.attributes["filter_w"]
    height, width = place.tensor(WEIGHTS).shape[1:3]
    return (
        (height - 1) * place.attributes["dilation_h"] + 1,
        (width - 1) * place.attributes["dilation_w"] + 1,
    )


def _filter(place: _Place, limits: Mapping[str, Any]) -> str | None:
    height, width = _window(place)
    if height > limits["filter_height"]:
        return f"a filter of height {height}, over {limits['filter_height']}"
    area = limits["filter_area"]
    return f"a filter of {height} x {width}, over {area} places" if height * width > area else None


def _average_filter(place: _Place, limits: Mapping[str, Any]) -> str | None:
    if place.attributes["padding"] != "SAME":
        return _filter(place, limits)
    height, width = _window(place)
    most = limits["average_filter_same"]
    too_large = max(height, width) > most
    return f"a filter of {height} x {width} with SAME padding, over {most}" if too_large else None


def _weights(place: _Place, limits: Mapping[str, Any]) -> str | None:
    weights, most = place.tensor(WEIGHTS), limits["weight_sum"]
    if weights.values is None or weights.values.size <= most // 128:
        return None
    axes = tuple(axis for axis in range(weights.values.ndim) if axis != weights.axis)
    sums = np.abs(weights.values.astype(np.int64)).sum(axis=axes)
    largest = int(sums.max())
    return f"the weights of a channel add up to {largest}, over {most}" if largest > most else None


def _depth(place: _Place, limits: Mapping[str, Any]) -> str | None:
    depth = place.source[-1]
    if depth <= limits["depth"]:
        return None
    return f"{depth} inputs, over {limits['depth']}, on which Vela fails"


def _mean(place: _Place, limits: Mapping[str, Any]) -> str | None:
    axes = [axis % len(place.source) for axis in place.attributes["axes"]]
    elements = math.prod(place.source[axis] for axis in axes)
    most = limits["mean_elements"].get(place.inputs[0].type)
    if most is not None and elements > most:
        return f"a mean of {elements} values, over {most}"
    plane = place.source[-3:]
    if len(place.source) - 1 in axes and 1 not in plane:
        return f"a mean over the depth of {plane}"
    return None


def _resize(place: _Place, limits: Mapping[str, Any]) -> str | None:
    before, after = place.source[1:3], tuple(int(size) for size in place.attributes["size"])
    if before == (1, 1) or before == after:
        return None
    less = int(place.attributes["align_corners"])
    factors = [
        (new - less) / (old - less) if old > less else 1.0
        for new, old in zip(after, before, strict=True)
    ]
    said = f"a resize of {before[0]} x {before[1]} to {after[0]} x {after[1]}"
    are_centres = place.attributes["half_pixel_centers"]
    of_centres = limits["factors_of_centres"].get(place.kind) if are_centres else None
    if factors[0] != factors[1]:
        is_line = any(
            size == 1 and factor == 1 for size, factor in zip(after, factors, strict=True)
        )
        if of_centres or not is_line:
            return f"{said}, by unequal factors"
    allowed = of_centres or limits["factors"][place.kind]
    if max(factors) in allowed:
        return None
    return f"{said}, allowed are factors of {', '.join(map(str, allowed))}"


def _transpose(place: _Place, limits: Mapping[str, Any]) -> str | None:
    shape, order = place.source, [int(axis) for axis in place.attributes["permutation"]]
    most, outer = limits["transpose_places"], len(shape) - 3
    if order == sorted(order):
        return None
    moves_plane_only = order[: max(outer, 0)] == list(range(outer))
    if moves_plane_only and all(size == 1 for size in shape[: max(outer, 0)]):
        largest = max(shape)
    else:
        # Of any N - 2 axes.
        largest = math.prod(sorted(shape)[2:])
    return f"a transpose of {shape} by {tuple(order)}, too large" if largest > most else None


#: Constraints by the names in `ethos_u.toml`.
_RULES: Mapping[str, _Rule] = {
    "average_filter": _average_filter,
    "depth": _depth,
    "depthwise_stride": _depthwise_stride,
    "filter": _filter,
    "mean": _mean,
    "moved_numbers": _moved_numbers,
    "narrow_product": _narrow_product,
    "none_of_its_kind": _none_of_its_kind,
    "outer_strides": _outer_strides,
    "resize": _resize,
    "stride": _stride,
    "transpose": _transpose,
    "transposed": _transposed,
    "weights": _weights,
}
