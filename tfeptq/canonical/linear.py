"""The weighted primitives, each by the map that its row in `tfeptq.canonical.primitives` names."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical.linear_maps import LinearMap
from tfeptq.canonical.primitives import PRIMITIVES, primitive_of

WEIGHTED_LAYERS = tuple(row.layer for row in PRIMITIVES if row.weights is not None)


def is_weighted(layer: keras.Layer) -> bool:
    return isinstance(layer, WEIGHTED_LAYERS)


def map_of(layer: keras.Layer) -> LinearMap:
    """What a weighted primitive does with its kernel."""
    found = primitive_of(layer).weights
    assert found is not None, f"layer {layer.name!r} has no weights"
    return found


def operator_kind(layer: keras.Layer) -> str:
    """TensorFlow Lite operator that executes `layer`."""
    return primitive_of(layer).kind_of(layer)


def channel_axes(layer: keras.Layer) -> tuple[int, ...]:
    """Axes of the kernel that together index the output channels, in order."""
    return map_of(layer).channel_axes


def in_file(layer: keras.Layer, kernel: np.ndarray) -> tuple[np.ndarray, int]:
    """A kernel in TensorFlow Lite's layout, and the axis of its channels."""
    return map_of(layer).in_file(kernel)


def by_channel(layer: keras.Layer, kernel: np.ndarray) -> np.ndarray:
    """Kernel as (output channels, weights of a channel)."""
    return map_of(layer).by_channel(kernel)


def by_group(layer: keras.Layer, kernel: np.ndarray) -> np.ndarray:
    """Kernel as (groups, K, output channels of a group): K weights that meet the same K inputs."""
    return map_of(layer).by_group(kernel)


def from_groups(layer: keras.Layer, grouped: np.ndarray) -> np.ndarray:
    """Inverse of `by_group`."""
    return map_of(layer).from_groups(grouped, tuple(layer.kernel.shape))


def input_columns(layer: keras.Layer, inputs: tf.Tensor, *, stride: int = 1) -> tf.Tensor:
    """What the weights of `by_group` are multiplied with, (groups, positions, K).

    Args:
        stride: of the positions of all samples, one behind the other, every so many are taken.
    """
    return map_of(layer).columns(layer, inputs, stride)


def positions(layer: keras.Layer, inputs: tuple[int, ...]) -> int:
    """At how many positions of a sample the kernel is applied; `inputs` is their shape."""
    return map_of(layer).positions(layer, inputs)


def scale_shape(layer: keras.Layer, kernel_shape: tuple[int, ...], *, per_channel: bool) -> tuple:
    """Shape that broadcasts one scale a channel (or one in all) against the kernel."""
    return map_of(layer).scale_shape(tuple(kernel_shape), per_channel=per_channel)


def linear_operation(layer: keras.Layer, inputs: Any, kernel: Any) -> Any:
    """The layer's linear map with another kernel, without bias."""
    return map_of(layer)(layer, inputs, kernel)


def squared_weight_jacobian(
    layer: keras.Layer, inputs: tf.Tensor, gradient: tf.Tensor
) -> tf.Tensor:
    """Sum over samples of (d(v'y)/dW)^2, element by element, in the kernel's shape.

    Args:
        inputs: the layer's input, (N, ...).
        gradient: d(v'y)/dz at the layer's output z, (N, ...).
    """
    of = map_of(layer)
    if inputs.shape[0] == 1:
        # One sample's are the squares of its gradient, which takes no patches.
        return tf.square(of.gradient(layer, inputs, gradient))
    return of.squared_jacobian(layer, inputs, gradient)
