"""How each operator's attributes are stored: as option fields or as constant int32 operands.

One row an operator, read in both directions: `encode` writes it, `decode` reads it back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.graph.structure import Operator

_PADDING = {"SAME": schema.Padding.SAME, "VALID": schema.Padding.VALID}
_ACTIVATION = {
    "NONE": schema.ActivationFunctionType.NONE,
    "RELU": schema.ActivationFunctionType.RELU,
    "RELU6": schema.ActivationFunctionType.RELU6,
}
_ENUMS: Mapping[str, Mapping[str, int]] = {"padding": _PADDING, "activation": _ACTIVATION}


@dataclasses.dataclass(frozen=True)
class Codec:
    """Storage of one operator kind.

    Attributes:
        options: name of the options table, or None where the operator has none.
        fields: attribute -> field of the options table.
        constants: attributes stored as int32 operands behind the inputs, in order.
        defaults: option fields that are always the same.
        required: option fields whose other values the integer graph has no words for.
    """

    options: str | None = None
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    constants: Sequence[str] = ()
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    required: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_WINDOW = {"padding": "padding", "stride_h": "strideH", "stride_w": "strideW"}
_DILATION = {"dilation_h": "dilationHFactor", "dilation_w": "dilationWFactor"}
_FUSED = {"activation": "fusedActivationFunction"}
#: The schema's default asks for int16 kernels that add powers of two only.
_ANY_SCALE = {"potScaleInt16": False}
_UNFUSED = {"fusedActivationFunction": schema.ActivationFunctionType.NONE}
_POOL = Codec(
    "Pool2DOptions",
    _WINDOW | {"filter_h": "filterHeight", "filter_w": "filterWidth"},
    required=_UNFUSED,
)

OPERATORS: dict[str, Codec] = {
    "CONV_2D": Codec("Conv2DOptions", _WINDOW | _DILATION | _FUSED),
    "DEPTHWISE_CONV_2D": Codec(
        "DepthwiseConv2DOptions",
        _WINDOW | _DILATION | _FUSED | {"depth_multiplier": "depthMultiplier"},
    ),
    "FULLY_CONNECTED": Codec(
        "FullyConnectedOptions",
        _FUSED | {"keep_num_dims": "keepNumDims"},
        required={"weightsFormat": schema.FullyConnectedOptionsWeightsFormat.DEFAULT},
    ),
    "ADD": Codec("AddOptions", _FUSED, defaults=_ANY_SCALE),
    "SUB": Codec("SubOptions", _FUSED, defaults=_ANY_SCALE),
    "MUL": Codec("MulOptions", _FUSED),
    "MAXIMUM": Codec("MaximumMinimumOptions"),
    "MINIMUM": Codec("MaximumMinimumOptions"),
    "CONCATENATION": Codec("ConcatenationOptions", {"axis": "axis"}, required=_UNFUSED),
    "MAX_POOL_2D": _POOL,
    "AVERAGE_POOL_2D": _POOL,
    "MEAN": Codec("ReducerOptions", {"keep_dims": "keepDims"}, ("axes",)),
    "RESHAPE": Codec("ReshapeOptions", {}, ("new_shape",)),
    "TRANSPOSE": Codec("TransposeOptions", {}, ("permutation",)),
    "PAD": Codec("PadOptions", {}, ("paddings",)),
    "SLICE": Codec("SliceOptions", {}, ("begin", "size")),
    "RESIZE_NEAREST_NEIGHBOR": Codec(
        "ResizeNearestNeighborOptions",
        {},
        ("size",),
        required={"alignCorners": False, "halfPixelCenters": False},
    ),
    "RESIZE_BILINEAR": Codec(
        "ResizeBilinearOptions",
        {"half_pixel_centers": "halfPixelCenters"},
        ("size",),
        required={"alignCorners": False},
    ),
    "RELU": Codec(),
    "RELU6": Codec(),
    "LEAKY_RELU": Codec("LeakyReluOptions", {"alpha": "alpha"}),
    "PRELU": Codec(),
    "HARD_SWISH": Codec("HardSwishOptions"),
    "LOGISTIC": Codec(),
    "TANH": Codec(),
    "SOFTMAX": Codec("SoftmaxOptions", defaults={"beta": 1.0}, required={"beta": 1.0}),
    "QUANTIZE": Codec("QuantizeOptions"),
}


def encode(operator: Operator) -> tuple[int, Any, dict[str, np.ndarray]]:
    """Options type, options table (or None) and constant int32 operands by attribute name."""
    codec = OPERATORS[operator.kind]
    operands = {name: np.asarray(operator.attributes[name], np.int32) for name in codec.constants}
    if codec.options is None:
        return schema.BuiltinOptions.NONE, None, operands
    options = getattr(schema, f"{codec.options}T")()
    for name, value in codec.defaults.items():
        setattr(options, name, value)
    for attribute, field in codec.fields.items():
        value = operator.attributes[attribute]
        setattr(options, field, _ENUMS[attribute][value] if attribute in _ENUMS else value)
    return getattr(schema.BuiltinOptions, codec.options), options, operands


def decode(kind: str, options: Any, operands: Sequence[np.ndarray]) -> dict[str, Any]:
    """Attributes of an operator read from a file; the inverse of `encode`.

    Raises:
        ValueError: an option value outside what the integer graph can say.
    """
    codec = OPERATORS[kind]
    _check_options(kind, codec, options)
    attributes = {
        attribute: _decoded(kind, attribute, getattr(options, field))
        for attribute, field in codec.fields.items()
    }
    for attribute, operand in zip(codec.constants, operands, strict=True):
        if not np.issubdtype(operand.dtype, np.integer):
            raise ValueError(f"{kind}: {attribute} is {operand.dtype}, need integers")
        attributes[attribute] = _nested_tuple(np.atleast_1d(operand).tolist())
    return attributes


def _check_options(kind: str, codec: Codec, options: Any) -> None:
    """The table of options is the operator's own, where it says anything, and says what we can."""
    if not codec.fields and not codec.required:
        return
    if type(options).__name__ != f"{codec.options}T":
        found = "none" if options is None else type(options).__name__.removesuffix("T")
        raise ValueError(f"{kind}: its options are {found}, need {codec.options}")
    for field, value in codec.required.items():
        if getattr(options, field) != value:
            raise ValueError(
                f"{kind}: its option {field} is {getattr(options, field)}; known is {value}"
            )


def _decoded(kind: str, attribute: str, value: Any) -> Any:
    if attribute not in _ENUMS:
        return value
    for name, code in _ENUMS[attribute].items():
        if code == value:
            return name
    raise ValueError(f"{kind}: {attribute} code {value} is not one of {list(_ENUMS[attribute])}")


def _nested_tuple(value: Any) -> Any:
    return tuple(_nested_tuple(item) for item in value) if isinstance(value, list) else value
