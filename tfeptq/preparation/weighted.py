"""Layers with weights as Conv2D, Conv2DTranspose, DepthwiseConv2D, Dense and PReLU primitives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfeptq.preparation.activations import activate
from tfeptq.preparation.convolutions import (
    Window,
    convolve,
    convolve_depthwise,
    convolve_separable,
    convolve_transposed,
    depthwise_of_groups,
    planar,
)
from tfeptq.preparation.errors import check_layout
from tfeptq.preparation.nodes import Node, Weights, in_plane, primitive
from tfeptq.preparation.slices import take

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
    kernel = planar(_array(layer.kernel))
    bias = _bias(layer, layer.filters)
    if layer.groups == 1:
        weights = _weights(layer, shared, lambda: [kernel, bias])
        return activate(convolve(layer.name, node, weights, _window(layer, node)), layer)
    if layer.groups < channels:
        return activate(_grouped(layer, node, kernel, bias, shared), layer)
    weights = _weights(layer, shared, lambda: [depthwise_of_groups(kernel, channels), bias])
    return activate(convolve_depthwise(layer.name, node, weights, _window(layer, node)), layer)


def _grouped(layer: Any, node: Node, kernel: np.ndarray, bias: np.ndarray, shared: Shared) -> Node:
    """A convolution for each group of channels: no runtime has integer kernels for groups."""
    inputs, filters = node.shape[-1] // layer.groups, layer.filters // layer.groups
    parts = []
    for group in range(layer.groups):
        name = f"{layer.name}_{group}"
        first, made = group * inputs, slice(group * filters, (group + 1) * filters)
        source = take(node, f"{name}_inputs", len(node.shape) - 1, first, first + inputs)
        weights = shared.setdefault((layer, group), Weights([kernel[..., made], bias[made]]))
        parts.append(convolve(name, source, weights, _window(layer, node)))
    return primitive(keras.layers.Concatenate, f"{layer.name}_groups", parts, axis=-1)


def transposed_convolution(layer: Any, node: Node, shared: Shared) -> Node:
    """Conv1DTranspose and Conv2DTranspose."""
    check_layout(layer)
    bias, padding = _bias(layer, layer.filters), layer.output_padding
    if padding is not None and len(node.shape) == 2:
        padding = (0, *padding)
    rates = in_plane(layer.dilation_rate, node)
    weights = _weights(layer, shared, lambda: [_dilated(planar(_array(layer.kernel)), rates), bias])
    size = weights.arrays[0].shape[:2]
    window = Window(size, in_plane(layer.strides, node), (1, 1), layer.padding)
    made = convolve_transposed(layer.name, node, weights, window, output_padding=padding)
    return activate(made, layer)


def _dilated(kernel: np.ndarray, rates: tuple[int, ...]) -> np.ndarray:
    """The kernel with zeros in between, which no runtime's kernels leave out by themselves."""
    sizes = [(size - 1) * rate + 1 for size, rate in zip(kernel.shape, rates, strict=False)]
    result = np.zeros((*sizes, *kernel.shape[2:]), kernel.dtype)
    result[:: rates[0], :: rates[1]] = kernel
    return result


def depthwise_convolution(layer: Any, node: Node, shared: Shared) -> Node:
    """DepthwiseConv1D and DepthwiseConv2D."""
    check_layout(layer)
    outputs = node.shape[-1] * layer.depth_multiplier
    weights = _weights(layer, shared, lambda: [planar(_array(layer.kernel)), _bias(layer, outputs)])
    return activate(convolve_depthwise(layer.name, node, weights, _window(layer, node)), layer)


def separable_convolution(layer: Any, node: Node, shared: Shared) -> Node:
    """SeparableConv1D and SeparableConv2D: depthwise, then a 1x1 convolution."""
    check_layout(layer)
    channels = node.shape[-1] * layer.depth_multiplier
    depthwise = _weights(
        (layer, "depthwise"),
        shared,
        lambda: [planar(_array(layer.depthwise_kernel)), np.zeros(channels)],
    )
    pointwise = _weights(
        layer,
        shared,
        lambda: [planar(_array(layer.pointwise_kernel)), _bias(layer, layer.filters)],
    )
    output = convolve_separable(layer.name, node, depthwise, pointwise, _window(layer, node))
    return activate(output, layer)


def prelu(layer: keras.layers.PReLU, node: Node, shared: Shared) -> Node:
    weights = _weights(layer, shared, lambda: [_array(layer.alpha)])
    return primitive(
        keras.layers.PReLU, layer.name, [node], weights=weights, shared_axes=layer.shared_axes
    )


def _window(layer: Any, node: Node) -> Window:
    return Window.on(
        node,
        kernel_size=layer.kernel_size,
        strides=layer.strides,
        dilation_rate=layer.dilation_rate,
        padding=layer.padding,
    )


def _weights(key: Any, shared: Shared, arrays: Callable[[], list[np.ndarray]]) -> Weights:
    if key not in shared:
        shared[key] = Weights(arrays())
    return shared[key]


def _array(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)


def _bias(layer: Any, outputs: int) -> np.ndarray:
    return _array(layer.bias) if layer.use_bias else np.zeros(outputs)
