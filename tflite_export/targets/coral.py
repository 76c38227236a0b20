"""The documented requirements of the Edge TPU compiler, as far as a file shows them.

Necessary, not sufficient: the compiler also leaves listed operators on the CPU "due to some
unspecified limitation". An empty answer means that no blocker is known.
"""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.file.stored import StoredModel, StoredOperator, StoredTensor
from tflite_export.graph.kinds import WEIGHTS
from tflite_export.operators.rescaling import DEQUANTIZE, QUANTIZE
from tflite_export.targets.findings import Finding

_PAGE = "https://coral.ai/docs/edgetpu/models-intro/"
MODEL_REQUIREMENTS = f"{_PAGE}#model-requirements"
SUPPORTED_OPERATIONS = f"{_PAGE}#supported-operations"
_QUANTIZED = ("int8", "uint8")
#: Innermost dimensions that may be larger than one.
_INNER_DIMENSIONS = 3
_SOFTMAX_ELEMENTS = 16_000
_DEPTH_MULTIPLE = 4
_NO_ACTIVATION = schema.ActivationFunctionType.NONE


@dataclasses.dataclass(frozen=True)
class _Place:
    """An operator in its file."""

    operator: StoredOperator
    model: StoredModel

    @property
    def inputs(self) -> list[StoredTensor]:
        return self.model.read_by(self.operator)

    @property
    def outputs(self) -> list[StoredTensor]:
        return self.model.written_by(self.operator)

    def option(self, name: str, default: int = 0) -> int:
        return getattr(self.operator.options, name, default)

    def tensor(self, role: str) -> StoredTensor | None:
        """The operand of a known operator with a role."""
        return self.model.operand(self.operator, role)

    def constant(self, index: int) -> np.ndarray | None:
        return self.inputs[index].values if index < len(self.inputs) else None


_Rule = Callable[[_Place], str | None]


def _same_dilation(place: _Place) -> str | None:
    height, width = place.option("dilationHFactor", 1), place.option("dilationWFactor", 1)
    return f"dilations {height} and {width} differ" if height != width else None


def _one_dimensional_output(place: _Place) -> str | None:
    if place.option("weightsFormat"):
        return "the weights are shuffled; only the default format is supported"
    shape = place.outputs[0].shape
    return None if _is_vector(shape) else f"the output {shape} is not one-dimensional"


def _is_vector(shape: Sequence[int]) -> bool:
    return all(size == 1 for size in shape[:-1])


def _no_fused_activation(place: _Place) -> str | None:
    fused = place.option("fusedActivationFunction") != _NO_ACTIVATION
    return "has a fused activation function" if fused else None


def _constants_are_padding(place: _Place) -> str | None:
    constants = [tensor for tensor in place.inputs if tensor.values is not None]
    zeros = all(_is_zero(tensor) for tensor in constants)
    if not constants or (len(place.inputs) == 2 and zeros):
        return None
    return "has a constant input; allowed is one of zeros beside one other input"


def _is_zero(tensor: StoredTensor) -> bool:
    return tensor.values is not None and bool(np.all(tensor.values == tensor.offset))


def _reduced_axes(place: _Place) -> tuple[list[int], int]:
    axes, rank = place.constant(1), len(place.inputs[0].shape)
    return [] if axes is None else [int(axis) % rank for axis in axes.reshape(-1)], rank


def _no_batch_reduction(place: _Place) -> str | None:
    return "reduces the batch" if 0 in _reduced_axes(place)[0] else None


def _depth_multiple(place: _Place) -> str | None:
    axes, rank = _reduced_axes(place)
    depth = place.inputs[0].shape[-1]
    if rank - 1 not in axes or depth % _DEPTH_MULTIPLE == 0:
        return None
    return f"reduces a depth of {depth}, which is not a multiple of {_DEPTH_MULTIPLE}"


def _no_batch_padding(place: _Place) -> str | None:
    amounts = place.constant(1)
    return "pads the batch" if amounts is not None and np.any(amounts[0]) else None


def _no_batch_packing(place: _Place) -> str | None:
    return "packs along the batch" if place.option("axis") == 0 else None


def _slopes_of_channels(place: _Place) -> str | None:
    slopes = place.tensor("slopes")
    shape = () if slopes is None else slopes.shape
    return None if _is_vector(shape) else f"slopes {shape} vary beyond the innermost dimension"


def _three_dimensional(place: _Place) -> str | None:
    shapes = [place.inputs[0].shape, place.outputs[0].shape]
    odd = [shape for shape in shapes if len([size for size in shape if size > 1]) > 3]
    return f"shape {odd[0]} is not three-dimensional" if odd else None


def _short_vector(place: _Place) -> str | None:
    shape = place.inputs[0].shape
    if not _is_vector(shape):
        return f"the input {shape} is not one-dimensional"
    if shape[-1] > _SOFTMAX_ELEMENTS:
        return f"{shape[-1]} elements, allowed are {_SOFTMAX_ELEMENTS}"
    return None


def _plain_slice(place: _Place) -> str | None:
    strides = place.constant(3)
    if strides is None or np.any(strides != 1):
        return "has strides other than 1"
    masked = place.option("ellipsisMask") or place.option("newAxisMask")
    return "has an ellipsis or new-axis mask" if masked else None


#: What the list may demand of an operator, by the names in `coral.toml`.
_RULES: Mapping[str, _Rule] = {
    "constants_are_padding": _constants_are_padding,
    "depth_multiple": _depth_multiple,
    "no_batch_packing": _no_batch_packing,
    "no_batch_padding": _no_batch_padding,
    "no_batch_reduction": _no_batch_reduction,
    "no_fused_activation": _no_fused_activation,
    "one_dimensional_output": _one_dimensional_output,
    "plain_slice": _plain_slice,
    "same_dilation": _same_dilation,
    "short_vector": _short_vector,
    "slopes_of_channels": _slopes_of_channels,
    "three_dimensional": _three_dimensional,
}


@functools.cache
def rules() -> Mapping[str, tuple[_Rule, ...]]:
    """Every operator in the documented list, with what the list demands of it."""
    text = resources.files(__package__).joinpath("coral.toml").read_text("utf-8")
    return {
        kind: tuple(_RULES[name] for name in names)
        for kind, names in tomllib.loads(text)["rules"].items()
    }


def findings(model: StoredModel) -> tuple[Finding, ...]:
    """What keeps operators of a file from the Edge TPU, as far as is documented."""
    found = []
    for operator in model.operators:
        if not _converts_at_the_border(operator, model):
            found += _findings(_Place(operator, model))
    return tuple(found)


def _converts_at_the_border(operator: StoredOperator, model: StoredModel) -> bool:
    """Float inputs and outputs are allowed; their conversion runs on the CPU."""
    enters = operator.kind == QUANTIZE.name and operator.inputs[0] in model.inputs
    leaves = operator.kind == DEQUANTIZE and operator.outputs[0] in model.outputs
    return enters or leaves


def _findings(place: _Place) -> list[Finding]:
    kind, where = place.operator.kind, place.model.where(place.operator)
    if kind not in rules():
        return [
            Finding(
                where,
                "is not in the list of supported operations",
                "replace the layer; everything after it runs on the CPU",
                SUPPORTED_OPERATIONS,
            )
        ]
    source = place.model.source(place.operator)
    tensors = [_tensor_problem(tensor) for tensor in (source, *place.outputs) if tensor]
    problems = [
        Finding(where, problem, advice, MODEL_REQUIREMENTS)
        for problem, advice in filter(None, [*tensors, _weights_problem(place)])
    ]
    broken = (rule(place) for rule in rules()[kind])
    return problems + [
        Finding(where, problem, "change the layer, or let it run on the CPU", SUPPORTED_OPERATIONS)
        for problem in broken
        if problem is not None
    ]


def _tensor_problem(tensor: StoredTensor) -> tuple[str, str] | None:
    """Problem and advice about an activation."""
    if tensor.type not in _QUANTIZED:
        return (
            f"tensor {tensor.name!r} is {tensor.type}, need int8 or uint8",
            "quantize fully to 8 bits: export with target='coral'",
        )
    if any(size < 1 for size in tensor.shape):
        return f"tensor {tensor.name!r} has unknown sizes {tensor.shape}", "fix all sizes"
    if any(size > 1 for size in tensor.shape[:-_INNER_DIMENSIONS]):
        return (
            f"tensor {tensor.name!r} {tensor.shape} is larger than 1 beyond its three innermost "
            "dimensions",
            "use batch 1 and at most three dimensions besides",
        )
    return None


def _weights_problem(place: _Place) -> tuple[str, str] | None:
    """Parameters must be constants of 8 bits; biases and the like are int32."""
    weights = place.tensor(WEIGHTS)
    if weights is None:
        return None
    if weights.values is None:
        return "the weights are computed, not constant", "make them constants"
    if weights.type not in _QUANTIZED:
        return f"the weights are {weights.type}, need int8", "set weight_bits=8"
    return None
