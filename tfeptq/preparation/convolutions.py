"""Convolutions of images and sequences as primitives of images.

A sequence becomes an image of height 1 between two reshapes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from tfeptq.preparation.nodes import (
    Node,
    Shape,
    Weights,
    as_image,
    as_sequence,
    in_plane,
    primitive,
)


@dataclasses.dataclass(frozen=True)
class Window:
    """Geometry of a convolution, in the plane (height, width).

    Attributes:
        padding: "valid", "same", or for sequences "causal".
    """

    kernel_size: Shape
    strides: Shape
    dilation_rate: Shape
    padding: str

    @classmethod
    def on(
        cls, node: Node, *, kernel_size: Any, strides: Any, dilation_rate: Any, padding: str
    ) -> Window:
        """From the settings of a layer that reads `node`."""
        height, width = in_plane(strides, node)
        if len(node.shape) == 2:
            # Keras's depthwise kernels take equal strides only; over one row the other is free.
            height = width
        dilation = in_plane(dilation_rate, node)
        return cls(in_plane(kernel_size, node), (height, width), dilation, padding)

    def options(self) -> dict[str, Any]:
        """Arguments of the Keras layer."""
        return dataclasses.asdict(self)


def convolve(name: str, node: Node, weights: Weights, window: Window) -> Node:
    """Conv2D with a kernel of shape (height, width, inputs, filters) and a bias."""
    filters = weights.arrays[0].shape[-1]
    return _in_window(keras.layers.Conv2D, name, node, weights, window, filters=filters)


def convolve_depthwise(name: str, node: Node, weights: Weights, window: Window) -> Node:
    """DepthwiseConv2D with a kernel of shape (height, width, inputs, multiplier) and a bias."""
    multiplier = weights.arrays[0].shape[-1]
    return _in_window(
        keras.layers.DepthwiseConv2D, name, node, weights, window, depth_multiplier=multiplier
    )


def convolve_transposed(
    name: str, node: Node, weights: Weights, window: Window, *, output_padding: Shape | None
) -> Node:
    """Conv2DTranspose with a kernel of shape (height, width, filters, inputs) and a bias."""
    filters = weights.arrays[0].shape[-2]
    return _in_window(
        keras.layers.Conv2DTranspose,
        name,
        node,
        weights,
        window,
        filters=filters,
        output_padding=output_padding,
    )


def convolve_separable(
    name: str, node: Node, depthwise: Weights, pointwise: Weights, window: Window
) -> Node:
    """`{name}_depthwise`, then a 1x1 convolution `name`."""
    middle = convolve_depthwise(f"{name}_depthwise", node, depthwise, window)
    point = Window((1, 1), (1, 1), (1, 1), "valid")
    return convolve(name, middle, pointwise, point)


def planar(kernel: np.ndarray) -> np.ndarray:
    """A convolution's kernel with height and width."""
    return kernel[None] if kernel.ndim == 3 else kernel


def depthwise_of_groups(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Kernel of a convolution with one group a channel, for a depthwise convolution."""
    height, width, _, filters = kernel.shape
    return kernel.reshape(height, width, channels, filters // channels)


def _in_window(
    kind: type, name: str, node: Node, weights: Weights, window: Window, **options: Any
) -> Node:
    image = as_image(node, name)
    if window.padding == "causal":
        before = (window.kernel_size[1] - 1) * window.dilation_rate[1]
        padding = ((0, 0), (before, 0))
        image = primitive(keras.layers.ZeroPadding2D, f"{name}_pad", [image], padding=padding)
        window = dataclasses.replace(window, padding="valid")
    output = primitive(kind, name, [image], weights=weights, **window.options(), **options)
    return as_sequence(output, node, name)
