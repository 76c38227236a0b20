"""Which TensorFlow Lite operator executes a primitive layer, and its attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from tfeptq.canonical import linear

_MERGES = {
    keras.layers.Add: "ADD",
    keras.layers.Subtract: "SUB",
    keras.layers.Multiply: "MUL",
    keras.layers.Maximum: "MAXIMUM",
    keras.layers.Minimum: "MINIMUM",
}
_ACTIVATIONS = {"hard_silu": "HARD_SWISH", "sigmoid": "LOGISTIC", "tanh": "TANH"}
_FUSING = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL")

_Shape = tuple[int, ...]
_Builder = Callable[[Any, _Shape, _Shape], tuple[str, dict[str, Any]]]


def operator_kind(layer: keras.Layer, output: _Shape, source: _Shape) -> str:
    """TensorFlow Lite operator of a layer without weights; see `operator_of`."""
    return operator_of(layer, output, source)[0]


def operator_of(layer: keras.Layer, output: _Shape, source: _Shape) -> tuple[str, dict[str, Any]]:
    """TensorFlow Lite operator of a layer of a canonical model, and its attributes.

    Args:
        output, source: shapes of its output and of its first input.
    """
    if isinstance(layer, keras.layers.ReLU):
        return relu_kind(layer), {}
    if isinstance(layer, keras.layers.PReLU):
        return "PRELU", {}
    if linear.is_weighted(layer):
        return _linear(layer, output)
    return _builder(layer)(layer, output, source)


def relu_kind(layer: keras.layers.ReLU) -> str:
    return "RELU6" if layer.max_value == 6.0 else "RELU"


def _linear(layer: keras.Layer, output: _Shape) -> tuple[str, dict[str, Any]]:
    kind = linear.operator_kind(layer)
    if kind == "FULLY_CONNECTED":
        return kind, {"keep_num_dims": len(output) > 2, "activation": "NONE"}
    attributes = _window(layer) | {
        "dilation_h": layer.dilation_rate[0],
        "dilation_w": layer.dilation_rate[1],
        "activation": "NONE",
    }
    if kind == "DEPTHWISE_CONV_2D":
        attributes["depth_multiplier"] = layer.depth_multiplier
    return kind, attributes


def _window(layer: Any) -> dict[str, Any]:
    height, width = layer.strides
    return {"padding": layer.padding.upper(), "stride_h": height, "stride_w": width}


def _pool(kind: str) -> _Builder:
    def build(layer: Any, *_: Any) -> tuple[str, dict[str, Any]]:
        height, width = layer.pool_size
        return kind, _window(layer) | {"filter_h": height, "filter_w": width}

    return build


def _mean(layer: Any, *_: Any) -> tuple[str, dict[str, Any]]:
    return "MEAN", {"axes": (1, 2), "keep_dims": bool(layer.keepdims)}


def _merge(layer: Any, *_: Any) -> tuple[str, dict[str, Any]]:
    kind = _MERGES[type(layer)]
    return kind, {"activation": "NONE"} if kind in _FUSING else {}


def _concatenation(layer: Any, output: _Shape, _: _Shape) -> tuple[str, dict[str, Any]]:
    return "CONCATENATION", {"axis": layer.axis % len(output)}


def _reshape(layer: Any, output: _Shape, _: _Shape) -> tuple[str, dict[str, Any]]:
    return "RESHAPE", {"new_shape": output}


def _transpose(layer: Any, *_: Any) -> tuple[str, dict[str, Any]]:
    return "TRANSPOSE", {"permutation": (0, *layer.dims)}


def _pad(layer: Any, *_: Any) -> tuple[str, dict[str, Any]]:
    return "PAD", {"paddings": ((0, 0), *map(tuple, layer.padding), (0, 0))}


def _slice(layer: Any, output: _Shape, _: _Shape) -> tuple[str, dict[str, Any]]:
    (top, _bottom), (left, _right) = layer.cropping
    return "SLICE", {"begin": (0, top, left, 0), "size": output}


def _resize(layer: Any, output: _Shape, _: _Shape) -> tuple[str, dict[str, Any]]:
    if layer.interpolation == "nearest":
        return "RESIZE_NEAREST_NEIGHBOR", {"size": output[1:3]}
    return "RESIZE_BILINEAR", {"size": output[1:3], "half_pixel_centers": True}


def _activation(layer: Any, *_: Any) -> tuple[str, dict[str, Any]]:
    return _ACTIVATIONS[layer.activation.__name__], {}


_BUILDERS: dict[type, _Builder] = {
    keras.layers.MaxPooling2D: _pool("MAX_POOL_2D"),
    keras.layers.AveragePooling2D: _pool("AVERAGE_POOL_2D"),
    keras.layers.GlobalAveragePooling2D: _mean,
    **dict.fromkeys(_MERGES, _merge),
    keras.layers.Concatenate: _concatenation,
    keras.layers.Reshape: _reshape,
    keras.layers.Permute: _transpose,
    keras.layers.ZeroPadding2D: _pad,
    keras.layers.Cropping2D: _slice,
    keras.layers.UpSampling2D: _resize,
    keras.layers.Activation: _activation,
    keras.layers.Softmax: lambda *_: ("SOFTMAX", {}),
    keras.layers.LeakyReLU: lambda layer, *_: (
        "LEAKY_RELU",
        {"alpha": float(layer.negative_slope)},
    ),
}


def _builder(layer: keras.Layer) -> _Builder:
    found = next((build for known, build in _BUILDERS.items() if isinstance(layer, known)), None)
    if found is None:
        raise ValueError(f"layer {layer.name!r} ({type(layer).__name__}) is no primitive")
    return found
