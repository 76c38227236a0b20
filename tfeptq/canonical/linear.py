"""The weighted primitives: their linear operation, channel layout and weight Jacobian.

Conv2D kernels are (H, W, in, out), DepthwiseConv2D (H, W, in, multiplier), Dense (in, out).
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

WEIGHTED_LAYERS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)


def is_weighted(layer: keras.Layer) -> bool:
    return isinstance(layer, WEIGHTED_LAYERS)


def operator_kind(layer: keras.Layer) -> str:
    """TensorFlow Lite operator that executes `layer`."""
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return "DEPTHWISE_CONV_2D"
    return "CONV_2D" if isinstance(layer, keras.layers.Conv2D) else "FULLY_CONNECTED"


def channel_axes(layer: keras.Layer) -> tuple[int, ...]:
    """Axes of the kernel that together index the output channels, in order."""
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return (2, 3)
    return (3,) if isinstance(layer, keras.layers.Conv2D) else (1,)


def file_shape(layer: keras.Layer) -> tuple[tuple[int, ...], int]:
    """Shape of the kernel in TensorFlow Lite's layout, and the axis of its channels."""
    shape = tuple(layer.kernel.shape)
    if isinstance(layer, keras.layers.Dense):
        return shape[::-1], 0
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return (1, *shape[:2], shape[2] * shape[3]), 3
    return (shape[3], *shape[:3]), 0


def by_channel(layer: keras.Layer, kernel: np.ndarray) -> np.ndarray:
    """Kernel as (output channels, weights of a channel)."""
    axes = channel_axes(layer)
    moved = np.moveaxis(kernel, axes, range(len(axes)))
    return moved.reshape(int(np.prod([kernel.shape[axis] for axis in axes])), -1)


def by_group(layer: keras.Layer, kernel: np.ndarray) -> np.ndarray:
    """Kernel as (groups, K, output channels of a group): K weights that meet the same K inputs."""
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        flat = kernel.reshape(-1, *kernel.shape[2:])
        return np.moveaxis(flat, 1, 0)
    return kernel.reshape(1, -1, kernel.shape[-1])


def from_groups(layer: keras.Layer, grouped: np.ndarray) -> np.ndarray:
    """Inverse of `by_group`."""
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        grouped = np.moveaxis(grouped, 0, 1)
    return grouped.reshape(layer.kernel.shape)


def input_columns(layer: keras.Layer, inputs: tf.Tensor) -> tf.Tensor:
    """What the weights of `by_group` are multiplied with, (groups, positions, K)."""
    if isinstance(layer, keras.layers.Dense):
        return tf.reshape(inputs, [1, -1, inputs.shape[-1]])
    patches = _patches(layer, inputs)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        split = tf.reshape(patches, [-1, int(np.prod(layer.kernel_size)), inputs.shape[-1]])
        return tf.transpose(split, [2, 0, 1])
    return tf.reshape(patches, [1, -1, patches.shape[-1]])


def scale_shape(layer: keras.Layer, kernel_shape: tuple[int, ...], *, per_channel: bool) -> tuple:
    """Shape that broadcasts one scale a channel (or one in all) against the kernel."""
    axes = channel_axes(layer) if per_channel else ()
    return tuple(size if axis in axes else 1 for axis, size in enumerate(kernel_shape))


def linear_operation(layer: keras.Layer, inputs: Any, kernel: Any) -> Any:
    """The layer's linear map with another kernel, without bias."""
    if isinstance(layer, keras.layers.Dense):
        return ops.matmul(inputs, kernel)
    convolution = (
        ops.depthwise_conv if isinstance(layer, keras.layers.DepthwiseConv2D) else ops.conv
    )
    return convolution(
        inputs,
        kernel,
        strides=layer.strides,
        padding=layer.padding,
        data_format="channels_last",
        dilation_rate=layer.dilation_rate,
    )


def squared_weight_jacobian(
    layer: keras.Layer, inputs: tf.Tensor, gradient: tf.Tensor
) -> tf.Tensor:
    """Sum over samples of (d(v'y)/dW)^2, element by element, in the kernel's shape.

    Args:
        inputs: the layer's input, (N, ...).
        gradient: d(v'y)/dz at the layer's output z, (N, ...).
    """
    if isinstance(layer, keras.layers.Dense):
        return _squared_outer(inputs[:, None] if len(inputs.shape) == 2 else inputs, gradient)
    patches = _patches(layer, inputs)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return _squared_depthwise(layer, patches, gradient)
    return tf.reshape(_squared_outer(patches, gradient), layer.kernel.shape)


def _squared_outer(inputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    rows = tf.reshape(inputs, [tf.shape(inputs)[0], -1, inputs.shape[-1]])
    columns = tf.reshape(gradient, [tf.shape(inputs)[0], -1, gradient.shape[-1]])
    return tf.reduce_sum(tf.square(tf.matmul(rows, columns, transpose_a=True)), axis=0)


def _squared_depthwise(
    layer: keras.layers.DepthwiseConv2D, patches: tf.Tensor, gradient: tf.Tensor
) -> tf.Tensor:
    height, width, channels, multiplier = layer.kernel.shape
    patches = tf.reshape(patches, [tf.shape(patches)[0], -1, height * width, channels])
    gradient = tf.reshape(gradient, [tf.shape(gradient)[0], -1, channels, multiplier])
    per_sample = tf.einsum("npkc,npcm->nkcm", patches, gradient)
    return tf.reshape(tf.reduce_sum(tf.square(per_sample), axis=0), layer.kernel.shape)


def _patches(layer: keras.Layer, inputs: tf.Tensor) -> tf.Tensor:
    return tf.image.extract_patches(
        inputs,
        sizes=[1, *layer.kernel_size, 1],
        strides=[1, *layer.strides, 1],
        rates=[1, *layer.dilation_rate, 1],
        padding=layer.padding.upper(),
    )
