"""What a weighted primitive does with its kernel: one class a layout.

Conv2D kernels are (H, W, in, out), DepthwiseConv2D (H, W, in, multiplier), Dense (in, out) and
Conv2DTranspose (H, W, out, in).
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

Shape = tuple[int, ...]


class LinearMap(ABC):
    """A linear map of inputs, and of the kernel.

    Attributes:
        channel_axes: of the kernel, which together index the output channels, in order.
        input_axis: of the kernel, which indexes the input channels.
        is_grouped: every input channel has output channels of its own.
    """

    channel_axes: Shape
    input_axis: int
    is_grouped = False

    @abstractmethod
    def __call__(self, layer: Any, inputs: Any, kernel: Any) -> Any:
        """The layer's map with another kernel, without bias."""

    @abstractmethod
    def attributes(self, layer: Any, output: Shape) -> dict[str, Any]:
        """Attributes of the operator; `output` is the shape of the layer's output."""

    @abstractmethod
    def in_file(self, kernel: np.ndarray) -> tuple[np.ndarray, int]:
        """The kernel in TensorFlow Lite's layout, and the axis of its channels there."""

    @abstractmethod
    def positions(self, layer: Any, inputs: Shape) -> int:
        """At how many positions of a sample the kernel is applied; `inputs` is their shape."""

    @abstractmethod
    def columns(self, layer: Any, inputs: tf.Tensor, stride: int = 1) -> tf.Tensor:
        """What the weights of `by_group` are multiplied with, (groups, positions, K).

        Args:
            stride: of the positions of all samples, one behind the other, every so many are taken.
        """

    @abstractmethod
    def squared_jacobian(self, layer: Any, inputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        """See `tfeptq.canonical.linear.squared_weight_jacobian`."""

    def gradient(self, layer: Any, inputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        """Of the kernel, from that of the outputs of `inputs`."""
        kernel = tf.identity(layer.kernel)
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            made = self(layer, inputs, kernel)
        return tape.gradient(made, kernel, output_gradients=gradient)

    @abstractmethod
    def takes_offset(self, options: Mapping[str, Any]) -> bool:
        """Whether an offset of the inputs is one of the outputs, the same at every position.

        Args:
            options: arguments of the layer.
        """

    def by_group(self, kernel: np.ndarray) -> np.ndarray:
        """Kernel as (groups, K, output channels of a group): K weights that meet equal inputs."""
        return kernel.reshape(1, -1, kernel.shape[-1])

    def from_groups(self, grouped: np.ndarray, shape: Shape) -> np.ndarray:
        """Inverse of `by_group`, for a kernel of a shape."""
        return grouped.reshape(shape)

    def multiplications(self, kernel: Shape, source: Shape, output: Shape) -> int:
        """Of one inference.

        Args:
            kernel, source, output: shapes of the kernel, the input and the output; batch 1.
        """
        channels = math.prod(kernel[axis] for axis in self.channel_axes)
        return math.prod(output) * (math.prod(kernel) // channels)

    def by_channel(self, kernel: np.ndarray) -> np.ndarray:
        """Kernel as (output channels, weights of a channel)."""
        axes = self.channel_axes
        moved = np.moveaxis(kernel, axes, range(len(axes)))
        return moved.reshape(math.prod(kernel.shape[axis] for axis in axes), -1)

    def scale_shape(self, kernel: Shape, *, per_channel: bool) -> Shape:
        """Shape that broadcasts one scale a channel (or one in all) against the kernel."""
        axes = self.channel_axes if per_channel else ()
        return tuple(size if axis in axes else 1 for axis, size in enumerate(kernel))

    def scaled_outputs(self, kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """The kernel that scales every output channel, with one factor a channel."""
        return kernel * scale.reshape(self.scale_shape(kernel.shape, per_channel=True))

    def scaled_inputs(self, kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """The kernel that first scales every input channel, with one factor a channel."""
        return kernel * self._on_inputs(kernel, scale)

    def shift(self, kernel: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """What an offset of every input channel adds to every output channel."""
        summed = tuple(axis for axis in range(kernel.ndim) if axis not in self.channel_axes)
        return (kernel * self._on_inputs(kernel, offset)).sum(axis=summed).reshape(-1)

    def _on_inputs(self, kernel: np.ndarray, values: np.ndarray) -> np.ndarray:
        shape = [1] * kernel.ndim
        shape[self.input_axis] = -1
        return values.reshape(shape)


class DenseMap(LinearMap):
    """Dense."""

    channel_axes, input_axis = (1,), 0

    def __call__(self, layer: Any, inputs: Any, kernel: Any) -> Any:
        return ops.matmul(inputs, kernel)

    def attributes(self, layer: Any, output: Shape) -> dict[str, Any]:
        return {"keep_num_dims": len(output) > 2, "activation": "NONE"}

    def in_file(self, kernel: np.ndarray) -> tuple[np.ndarray, int]:
        return np.ascontiguousarray(kernel.T), 0

    def positions(self, layer: Any, inputs: Shape) -> int:
        return math.prod(inputs[1:-1])

    def columns(self, layer: Any, inputs: tf.Tensor, stride: int = 1) -> tf.Tensor:
        return tf.reshape(inputs, [1, -1, inputs.shape[-1]])[:, ::stride]

    def squared_jacobian(self, layer: Any, inputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        return _squared_outer(inputs[:, None] if len(inputs.shape) == 2 else inputs, gradient)

    def takes_offset(self, options: Mapping[str, Any]) -> bool:
        return True


class _WindowMap(LinearMap):
    """A window that moves over an image."""

    def positions(self, layer: Any, inputs: Shape) -> int:
        return math.prod(layer.compute_output_shape(inputs)[1:3])

    def attributes(self, layer: Any, output: Shape) -> dict[str, Any]:
        height, width = layer.strides
        return {
            "padding": layer.padding.upper(),
            "stride_h": height,
            "stride_w": width,
            "dilation_h": layer.dilation_rate[0],
            "dilation_w": layer.dilation_rate[1],
            "activation": "NONE",
        }

    def takes_offset(self, options: Mapping[str, Any]) -> bool:
        # Padded positions are zeros of the convolution's own input: they would miss the offset.
        return options["padding"] == "valid" or options["kernel_size"] == (1, 1)


class ConvolutionMap(_WindowMap):
    """Conv2D."""

    channel_axes, input_axis = (3,), 2

    def __call__(self, layer: Any, inputs: Any, kernel: Any) -> Any:
        if tuple(layer.kernel_size) == (1, 1):
            return _pointwise(layer, inputs, kernel)
        return ops.conv(inputs, kernel, **_geometry(layer))

    def in_file(self, kernel: np.ndarray) -> tuple[np.ndarray, int]:
        return np.ascontiguousarray(kernel.transpose(3, 0, 1, 2)), 0

    def columns(self, layer: Any, inputs: tf.Tensor, stride: int = 1) -> tf.Tensor:
        seen = _seen_at(layer, inputs, stride)
        return tf.reshape(seen, [1, -1, seen.shape[1] * seen.shape[2]])

    def squared_jacobian(self, layer: Any, inputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        squares = _squared_outer(_patches(layer, inputs), gradient)
        return tf.reshape(squares, layer.kernel.shape)


class DepthwiseMap(_WindowMap):
    """DepthwiseConv2D."""

    channel_axes, input_axis = (2, 3), 2
    is_grouped = True

    def __call__(self, layer: Any, inputs: Any, kernel: Any) -> Any:
        return ops.depthwise_conv(inputs, kernel, **_geometry(layer))

    def attributes(self, layer: Any, output: Shape) -> dict[str, Any]:
        return super().attributes(layer, output) | {"depth_multiplier": layer.depth_multiplier}

    def in_file(self, kernel: np.ndarray) -> tuple[np.ndarray, int]:
        height, width, channels, multiplier = kernel.shape
        return kernel.reshape(1, height, width, channels * multiplier), 3

    def by_group(self, kernel: np.ndarray) -> np.ndarray:
        return np.moveaxis(kernel.reshape(-1, *kernel.shape[2:]), 1, 0)

    def from_groups(self, grouped: np.ndarray, shape: Shape) -> np.ndarray:
        return np.moveaxis(grouped, 0, 1).reshape(shape)

    def columns(self, layer: Any, inputs: tf.Tensor, stride: int = 1) -> tf.Tensor:
        return tf.transpose(_seen_at(layer, inputs, stride), [2, 0, 1])

    def squared_jacobian(self, layer: Any, inputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        # One place of the window after the other: patches of all would be transposed for products
        # of next to nothing.
        multiplier = layer.kernel.shape[3]
        by_output = tf.reshape(gradient, [*tf.unstack(tf.shape(gradient))[:3], -1, multiplier])
        squares = [
            tf.reduce_sum(
                tf.square(tf.reduce_sum(seen[..., None] * by_output, axis=[1, 2])), axis=0
            )
            for seen in _seen(layer, inputs)
        ]
        return tf.reshape(tf.stack(squares), layer.kernel.shape)


def is_one_factor(layer: Any) -> bool:
    """Whether a depthwise convolution multiplies all numbers by one, and adds one to all.

    Such stand for factors of whole tensors, with which other operators are composed. Their weights
    have no rounding error.
    """
    kernel = ops.convert_to_numpy(layer.kernel)
    if kernel.shape[:2] + kernel.shape[3:] != (1, 1, 1) or tuple(layer.strides) != (1, 1):
        return False
    added = [] if layer.bias is None else [ops.convert_to_numpy(layer.bias)]
    return all(np.ptp(numbers) == 0.0 for numbers in (kernel, *added))


class TransposedMap(LinearMap):
    """Conv2DTranspose: every input is spread over a window of the output.

    It is a convolution of the input with zeros between its values and around them, with the kernel
    turned by half a circle.
    """

    channel_axes, input_axis = (2,), 3

    def __call__(self, layer: Any, inputs: Any, kernel: Any) -> Any:
        # All that the windows write, of which the output is a part: see `_pointwise`. Of
        # an output padding, or a stride beyond the kernel, there are places that none writes.
        strides = tuple(layer.strides)
        whole = ops.conv_transpose(
            inputs, kernel, strides, "valid", output_padding=(0, 0), data_format="channels_last"
        )
        cuts, sides = [], []
        for axis, made in enumerate(layer.compute_output_shape(inputs.shape)[1:3]):
            size = whole.shape[axis + 1]
            before = self._before(layer, size, made)
            behind = min(before + made, size)
            cuts.append(slice(before, behind))
            sides.append((0, made - (behind - before)))
        part = whole[:, cuts[0], cuts[1]]
        return ops.pad(part, ((0, 0), *sides, (0, 0))) if any(map(any, sides)) else part

    def _before(self, layer: Any, size: int, made: int) -> int:
        """How many of the `size` places along an axis lie before the `made` ones of the output."""
        return max(size - made, 0) // 2 if layer.padding == "same" else 0

    def attributes(self, layer: Any, output: Shape) -> dict[str, Any]:
        height, width = layer.strides
        return {
            "padding": layer.padding.upper(),
            "stride_h": height,
            "stride_w": width,
            "activation": "NONE",
            "output_shape": output,
        }

    def in_file(self, kernel: np.ndarray) -> tuple[np.ndarray, int]:
        return np.ascontiguousarray(kernel.transpose(2, 0, 1, 3)), 0

    def multiplications(self, kernel: Shape, source: Shape, output: Shape) -> int:
        return math.prod(source[:-1]) * math.prod(kernel)

    def by_group(self, kernel: np.ndarray) -> np.ndarray:
        turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
        return turned.reshape(1, -1, kernel.shape[2])

    def from_groups(self, grouped: np.ndarray, shape: Shape) -> np.ndarray:
        height, width, outputs, inputs = shape
        turned = grouped.reshape(height, width, inputs, outputs)
        return turned.transpose(0, 1, 3, 2)[::-1, ::-1]

    def positions(self, layer: Any, inputs: Shape) -> int:
        return math.prod(layer.compute_output_shape(inputs)[1:3])

    def columns(self, layer: Any, inputs: tf.Tensor, stride: int = 1) -> tf.Tensor:
        patches = self._patches(layer, inputs)
        return tf.reshape(patches, [1, -1, patches.shape[-1]])[:, ::stride]

    def squared_jacobian(self, layer: Any, inputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        squares = _squared_outer(self._patches(layer, inputs), gradient)
        height, width, outputs, channels = layer.kernel.shape
        turned = tf.reshape(squares, [height, width, channels, outputs])
        return tf.reverse(tf.transpose(turned, [0, 1, 3, 2]), [0, 1])

    def takes_offset(self, options: Mapping[str, Any]) -> bool:
        # Elsewhere some outputs see more of the kernel than others.
        return options["kernel_size"] == options["strides"] == (1, 1)

    def _patches(self, layer: Any, inputs: tf.Tensor) -> tf.Tensor:
        """Of every output what the turned kernel is multiplied with, (N, H, W, K)."""
        made = layer.compute_output_shape(inputs.shape)
        spread, sides = inputs, []
        for axis in (1, 2):
            size, stride = layer.kernel_size[axis - 1], layer.strides[axis - 1]
            count, reach = inputs.shape[axis], (inputs.shape[axis] - 1) * stride + 1
            spread = _with_zeros_between(spread, axis, count=count, stride=stride)
            before = size - 1 - self._before(layer, reach + size - 1, made[axis])
            sides.append([before, made[axis] + size - 1 - before - reach])
        padded = tf.pad(spread, [[0, 0], *sides, [0, 0]])
        return tf.image.extract_patches(
            padded,
            sizes=[1, *layer.kernel_size, 1],
            strides=[1, 1, 1, 1],
            rates=[1, 1, 1, 1],
            padding="VALID",
        )


def _with_zeros_between(tensor: tf.Tensor, axis: int, *, count: int, stride: int) -> tf.Tensor:
    """Puts `stride` - 1 zeros between the `count` values along an axis."""
    rank = len(tensor.shape)
    apart = tf.expand_dims(tensor, axis + 1)
    behind = [[0, stride - 1] if each == axis + 1 else [0, 0] for each in range(rank + 1)]
    shape = [-1, *tensor.shape[1:]]
    shape[axis] = count * stride
    filled = tf.reshape(tf.pad(apart, behind), shape)
    return tf.gather(filled, tf.range((count - 1) * stride + 1), axis=axis)


def _pointwise(layer: Any, inputs: Any, kernel: Any) -> Any:
    """A convolution whose window is one place, of those places only that it stands at.

    With strides and a single sample TensorFlow's gradient of such a kernel (2.21, on the CPU)
    writes beyond the end of its memory where places are left over there. Longer windows are safe.
    """
    if tuple(layer.strides) != (1, 1):
        # TensorFlow warns of functions that meet many shapes operator by operator.
        every = _every if tf.executing_eagerly() else _compiled_every
        inputs = every(inputs, tuple(layer.strides))
    return ops.conv(inputs, kernel, padding="valid", data_format="channels_last")


def _every(images: tf.Tensor, strides: tuple[int, int]) -> tf.Tensor:
    """Places of a grid."""
    return images[:, :: strides[0], :: strides[1]]


#: TensorFlow's own slices with steps, and their gradients, take as long as the convolution.
_compiled_every = tf.function(_every, jit_compile=True, autograph=False)


def _geometry(layer: Any) -> dict[str, Any]:
    return {
        "strides": layer.strides,
        "padding": layer.padding,
        "data_format": "channels_last",
        "dilation_rate": layer.dilation_rate,
    }


def _squared_outer(inputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    rows = tf.reshape(inputs, [tf.shape(inputs)[0], -1, inputs.shape[-1]])
    columns = tf.reshape(gradient, [tf.shape(inputs)[0], -1, gradient.shape[-1]])
    return tf.reduce_sum(tf.square(tf.matmul(rows, columns, transpose_a=True)), axis=0)


def _patches(layer: keras.Layer, inputs: tf.Tensor) -> tf.Tensor:
    if tuple(layer.kernel_size) == (1, 1):
        return inputs[:, :: layer.strides[0], :: layer.strides[1]]
    return tf.image.extract_patches(
        inputs,
        sizes=[1, *layer.kernel_size, 1],
        strides=[1, *layer.strides, 1],
        rates=[1, *layer.dilation_rate, 1],
        padding=layer.padding.upper(),
    )


def _seen_at(layer: Any, inputs: tf.Tensor, stride: int) -> tf.Tensor:
    """What the window sees at every so many output positions, (positions, places, C).

    Patches of all positions would be many times the inputs.
    """
    shape = [inputs.shape[0] or tf.shape(inputs)[0], *layer.compute_output_shape(inputs.shape)[1:3]]
    chosen = tf.range(0, shape[0] * shape[1] * shape[2], stride)
    sample, at = chosen // (shape[1] * shape[2]), chosen % (shape[1] * shape[2])
    row, column = layer.strides[0] * (at // shape[2]), layer.strides[1] * (at % shape[2])
    corners = tf.stack([sample, row, column], axis=1)
    padded = _padded(layer, inputs)
    places = [tf.gather_nd(padded, corners + tf.constant((0, *at))) for at in _places(layer)]
    return tf.stack(places, axis=1)


def _seen(layer: Any, inputs: tf.Tensor) -> Iterator[tf.Tensor]:
    """What each place of the window sees at every output position, (N, H, W, C), row by row."""
    outputs, padded = layer.compute_output_shape(inputs.shape)[1:3], _padded(layer, inputs)
    for place in _places(layer):
        rows, columns = (
            slice(at, at + (size - 1) * step + 1, step)
            for at, size, step in zip(place, outputs, layer.strides, strict=True)
        )
        yield padded[:, rows, columns]


def _places(layer: Any) -> list[tuple[int, int]]:
    """Of the window, how far each is from its corner, row by row."""
    rows, columns = (
        range(0, size * rate, rate)
        for size, rate in zip(layer.kernel_size, layer.dilation_rate, strict=True)
    )
    return list(itertools.product(rows, columns))


def _padded(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """The inputs with the zeros around them that windows see."""
    outputs, sides = layer.compute_output_shape(inputs.shape)[1:3], []
    for axis in (0, 1):
        reach = (outputs[axis] - 1) * layer.strides[axis] + 1
        window = (layer.kernel_size[axis] - 1) * layer.dilation_rate[axis]
        excess = max(reach + window - inputs.shape[axis + 1], 0)
        sides.append([excess // 2, excess - excess // 2])
    return tf.pad(inputs, [[0, 0], *sides, [0, 0]]) if any(map(any, sides)) else inputs
