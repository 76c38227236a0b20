"""Layers with weights as Conv2D, DepthwiseConv2D and Dense primitives.

One-dimensional layers become two-dimensional ones of height 1 between two reshapes.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfeptq.graph.activations import activate
from tfeptq.graph.errors import UnsupportedLayerError
from tfeptq.graph.nodes import Node, Shape, Weights, primitive, reshape

#: Weights by layer, so that the calls of a shared layer share them.
Shared = dict[Any, Weights]


def dense(layer: keras.layers.Dense, node: Node, shared: Shared) -> Node:
    weights = _weights(layer, shared, lambda: [_array(layer.kernel), _bias(layer, layer.units)])
    output = primitive(keras.layers.Dense, layer.name, [node], weights=weights, units=layer.units)
    return activate(output, layer)


def convolution(layer: Any, node: Node, shared: Shared) -> Node:
    """Conv1D and Conv2D."""
    check_layout(layer)
    channels = node.shape[-1]
    source, padding = _with_causal_padding(layer, _as_image(layer, node))
    if layer.groups == 1:
        weights = _weights(
            layer, shared, lambda: [_kernel(layer, layer.kernel), _bias(layer, layer.filters)]
        )
        output = _conv_2d(layer, layer.name, source, weights, padding, layer.filters)
    elif layer.groups == channels:
        weights = _weights(layer, shared, lambda: _depthwise_of_groups(layer, channels))
        output = _depthwise(layer, layer.name, source, weights, padding, layer.filters // channels)
    else:
        raise UnsupportedLayerError(
            layer,
            f"groups={layer.groups} with {channels} input channels",
            "use groups=1, or one group a channel (DepthwiseConv2D)",
        )
    return _as_sequence(layer, activate(output, layer), node)


def depthwise_convolution(layer: Any, node: Node, shared: Shared) -> Node:
    """DepthwiseConv1D and DepthwiseConv2D."""
    check_layout(layer)
    outputs = node.shape[-1] * layer.depth_multiplier
    weights = _weights(layer, shared, lambda: [_kernel(layer, layer.kernel), _bias(layer, outputs)])
    source = _as_image(layer, node)
    output = _depthwise(layer, layer.name, source, weights, layer.padding, layer.depth_multiplier)
    return _as_sequence(layer, activate(output, layer), node)


def separable_convolution(layer: Any, node: Node, shared: Shared) -> Node:
    """SeparableConv1D and SeparableConv2D: depthwise, then a 1x1 convolution."""
    check_layout(layer)
    multiplier = layer.depth_multiplier
    channels = node.shape[-1] * multiplier
    first = _weights(
        (layer, "depthwise"),
        shared,
        lambda: [_kernel(layer, layer.depthwise_kernel), np.zeros(channels)],
    )
    second = _weights(
        layer,
        shared,
        lambda: [_kernel(layer, layer.pointwise_kernel), _bias(layer, layer.filters)],
    )
    source, padding = _with_causal_padding(layer, _as_image(layer, node))
    name = f"{layer.name}_depthwise"
    middle = _depthwise(layer, name, source, first, padding, multiplier)
    output = primitive(
        keras.layers.Conv2D,
        layer.name,
        [middle],
        weights=second,
        filters=layer.filters,
        kernel_size=1,
    )
    return _as_sequence(layer, activate(output, layer), node)


def prelu(layer: keras.layers.PReLU, node: Node, shared: Shared) -> Node:
    weights = _weights(layer, shared, lambda: [_array(layer.alpha)])
    return primitive(
        keras.layers.PReLU, layer.name, [node], weights=weights, shared_axes=layer.shared_axes
    )


def check_layout(layer: Any) -> None:
    """Refuses the channels-first layout."""
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        raise UnsupportedLayerError(
            layer, "data_format='channels_first'", "rebuild the model with 'channels_last'"
        )


def _conv_2d(
    layer: Any, name: str, node: Node, weights: Weights, padding: str, filters: int
) -> Node:
    return primitive(
        keras.layers.Conv2D,
        name,
        [node],
        weights=weights,
        filters=filters,
        padding=padding,
        **_geometry(layer),
    )


def _depthwise(
    layer: Any, name: str, node: Node, weights: Weights, padding: str, multiplier: int
) -> Node:
    return primitive(
        keras.layers.DepthwiseConv2D,
        name,
        [node],
        weights=weights,
        padding=padding,
        depth_multiplier=multiplier,
        **_geometry(layer),
    )


def _geometry(layer: Any) -> dict[str, Shape]:
    return {
        "kernel_size": in_plane(layer.kernel_size),
        "strides": _equal_strides(in_plane(layer.strides), layer),
        "dilation_rate": in_plane(layer.dilation_rate),
    }


def in_plane(values: Any) -> Shape:
    """A setting of a one-dimensional layer as (height, width); height is 1."""
    values = tuple(values) if isinstance(values, (tuple, list)) else (values,)
    return (1, *values) if len(values) == 1 else values


def _equal_strides(strides: Shape, layer: Any) -> Shape:
    """Keras's depthwise kernels take equal strides only; over one row the other one is free."""
    return (strides[1], strides[1]) if len(tuple(layer.kernel_size)) == 1 else strides


def _with_causal_padding(layer: Any, node: Node) -> tuple[Node, str]:
    if layer.padding != "causal":
        return node, layer.padding
    before = (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
    padding = ((0, 0), (before, 0))
    padded = primitive(keras.layers.ZeroPadding2D, f"{layer.name}_pad", [node], padding=padding)
    return padded, "valid"


def _as_image(layer: Any, node: Node) -> Node:
    if len(node.shape) == 3:
        return node
    return reshape(node, f"{layer.name}_expand", (1, *node.shape))


def _as_sequence(layer: Any, output: Node, node: Node) -> Node:
    if len(node.shape) == 3:
        return output
    return reshape(output, f"{layer.name}_squeeze", output.shape[1:])


def _weights(key: Any, shared: Shared, arrays: Any) -> Weights:
    if key not in shared:
        shared[key] = Weights(arrays())
    return shared[key]


def _array(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)


def _bias(layer: Any, outputs: int) -> np.ndarray:
    return _array(layer.bias) if layer.use_bias else np.zeros(outputs)


def _kernel(layer: Any, variable: Any) -> np.ndarray:
    kernel = _array(variable)
    return kernel[None] if len(tuple(layer.kernel_size)) == 1 else kernel


def _depthwise_of_groups(layer: Any, channels: int) -> list[np.ndarray]:
    kernel = _kernel(layer, layer.kernel)
    height, width, _, filters = kernel.shape
    return [
        kernel.reshape(height, width, channels, filters // channels),
        _bias(layer, filters),
    ]
