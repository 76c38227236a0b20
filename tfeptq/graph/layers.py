"""Keras layers as primitives, one function a family; `LAYERS` says which class takes which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.graph import activations, weighted
from tfeptq.graph.errors import UnsupportedLayerError
from tfeptq.graph.nodes import Node, affine, primitive, reshape
from tfeptq.graph.weighted import Shared, check_layout, in_plane

Handler = Callable[[Any, list[Node], Shared], Node]
_L = keras.layers


def translate(layer: keras.Layer, inputs: list[Node], shared: Shared) -> Node:
    """The primitives of one call of a layer.

    Raises:
        UnsupportedLayerError: names the layer, its class and the nearest supported way.
    """
    for layer_class, handler in LAYERS.items():
        # Exact classes only: a subclass may compute something else.
        if type(layer) is layer_class:
            return handler(layer, inputs, shared)
    advice = _NEAREST.get(type(layer).__name__, "replace it with supported layers and fine-tune")
    raise UnsupportedLayerError(layer, "is not supported", advice)


_NEAREST = {
    "Conv2DTranspose": "use UpSampling2D followed by Conv2D",
    "Conv1DTranspose": "use UpSampling2D followed by Conv2D",
    "LayerNormalization": "use BatchNormalization",
    "GroupNormalization": "use BatchNormalization",
    "UnitNormalization": "use BatchNormalization",
    "ELU": "use ReLU or LeakyReLU and fine-tune",
    "LSTM": "use Conv1D over a window",
    "GRU": "use Conv1D over a window",
    "SimpleRNN": "use Conv1D over a window",
    "Embedding": "compute it before the model and pass its result",
    "MultiHeadAttention": "only convolutional models are supported",
    "Lambda": "write it with keras.ops in a functional model",
    "Conv3D": "only one- and two-dimensional convolutions are supported",
}


def _identity(layer: Any, inputs: list[Node], shared: Shared) -> Node:
    return inputs[0]


def _one(handler: Callable[[Any, Node, Shared], Node]) -> Handler:
    return lambda layer, inputs, shared: handler(layer, inputs[0], shared)


def _batch_normalization(layer: Any, node: Node, shared: Shared) -> Node:
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    if axis not in (-1, len(node.shape)):
        raise UnsupportedLayerError(layer, f"axis={layer.axis}", "normalize the last axis")
    variance = _array(layer.moving_variance)
    scale = 1.0 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale = scale * _array(layer.gamma)
    offset = -_array(layer.moving_mean) * scale
    if layer.center:
        offset = offset + _array(layer.beta)
    return affine(node, layer.name, scale, offset)


def _normalization(layer: Any, node: Node, shared: Shared) -> Node:
    mean, deviation = _array(layer.mean), np.sqrt(_array(layer.variance))
    deviation = np.maximum(deviation, keras.config.epsilon())
    if layer.invert:
        return _constant_affine(layer, node, deviation, mean)
    return _constant_affine(layer, node, 1.0 / deviation, -mean / deviation)


def _rescaling(layer: Any, node: Node, shared: Shared) -> Node:
    return _constant_affine(layer, node, layer.scale, layer.offset)


def _constant_affine(layer: Any, node: Node, scale: Any, offset: Any) -> Node:
    try:
        return affine(node, layer.name, scale, offset)
    except ValueError as error:
        raise UnsupportedLayerError(
            layer, str(error), "use one number, or one value for each channel"
        ) from error


def _array(value: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(value), np.float64)


def _activation(layer: Any, node: Node, shared: Shared) -> Node:
    return activations.activate(node, layer, layer.name)


def _relu(layer: Any, node: Node, shared: Shared) -> Node:
    return activations.relu_layer(node, layer, layer.name)


def _leaky_relu(layer: Any, node: Node, shared: Shared) -> Node:
    return activations.leaky_relu(node, layer.name, layer.negative_slope)


def _softmax(layer: Any, node: Node, shared: Shared) -> Node:
    if layer.axis not in (-1, len(node.shape)):
        raise UnsupportedLayerError(layer, f"axis={layer.axis}", "apply it to the last axis")
    return activations.softmax(node, layer.name)


def chain(kind: type, name: str, inputs: Sequence[Node]) -> Node:
    """A merge of any number of tensors as merges of two."""
    *first, last = inputs
    if not first:
        return last
    partial = chain(kind, f"{name}_{len(first)}", first)
    return primitive(kind, name, [partial, last])


def _merge(kind: type) -> Handler:
    return lambda layer, inputs, shared: chain(kind, layer.name, inputs)


def _average(layer: Any, inputs: list[Node], shared: Shared) -> Node:
    total = chain(_L.Add, layer.name, inputs)
    return affine(total, f"{layer.name}_scale", 1.0 / len(inputs), 0.0)


def _concatenate(layer: Any, inputs: list[Node], shared: Shared) -> Node:
    return primitive(_L.Concatenate, layer.name, inputs, axis=layer.axis)


def _pooling(kind: type) -> Handler:
    def handler(layer: Any, inputs: list[Node], shared: Shared) -> Node:
        check_layout(layer)
        node = inputs[0]
        image = node if len(node.shape) == 3 else _expanded(layer, node)
        size, strides = in_plane(layer.pool_size), in_plane(layer.strides)
        if kind is _L.AveragePooling2D and size == image.shape[:2]:
            # The mean has an output scale of its own, which the pooling kernel has not.
            pooled = primitive(_L.GlobalAveragePooling2D, layer.name, [image], keepdims=True)
        else:
            pooled = primitive(
                kind,
                layer.name,
                [image],
                pool_size=size,
                strides=strides,
                padding=layer.padding,
            )
        return pooled if len(node.shape) == 3 else _squeezed(layer, pooled)

    return handler


def _global_average(layer: Any, node: Node, shared: Shared) -> Node:
    check_layout(layer)
    if len(node.shape) == 3:
        return primitive(
            _L.GlobalAveragePooling2D, layer.name, [node], keepdims=bool(layer.keepdims)
        )
    pooled = primitive(
        _L.GlobalAveragePooling2D, layer.name, [_expanded(layer, node)], keepdims=False
    )
    return reshape(pooled, f"{layer.name}_keep", (1, *pooled.shape)) if layer.keepdims else pooled


def _global_max(layer: Any, node: Node, shared: Shared) -> Node:
    check_layout(layer)
    image = node if len(node.shape) == 3 else _expanded(layer, node)
    pooled = primitive(_L.MaxPooling2D, layer.name, [image], pool_size=image.shape[:2])
    kept = (1,) * (len(node.shape) - 1) if layer.keepdims else ()
    return reshape(pooled, f"{layer.name}_flat", (*kept, image.shape[-1]))


def _expanded(layer: Any, node: Node) -> Node:
    return reshape(node, f"{layer.name}_expand", (1, *node.shape))


def _squeezed(layer: Any, node: Node) -> Node:
    return reshape(node, f"{layer.name}_squeeze", node.shape[1:])


def _reshape(layer: Any, node: Node, shared: Shared) -> Node:
    shape = layer.compute_output_shape((None, *node.shape))[1:]
    return reshape(node, layer.name, tuple(shape))


def _flatten(layer: Any, node: Node, shared: Shared) -> Node:
    return reshape(node, layer.name, (int(np.prod(node.shape)),))


def _permute(layer: Any, node: Node, shared: Shared) -> Node:
    return primitive(_L.Permute, layer.name, [node], dims=tuple(layer.dims))


def _frame(kind: type, setting: str) -> Handler:
    """ZeroPadding and Cropping, one- and two-dimensional."""

    def handler(layer: Any, inputs: list[Node], shared: Shared) -> Node:
        check_layout(layer)
        node, amounts = inputs[0], getattr(layer, setting)
        if len(node.shape) == 3:
            return primitive(kind, layer.name, [node], **{setting: amounts})
        options: dict[str, Any] = {setting: ((0, 0), tuple(amounts))}
        return _squeezed(layer, primitive(kind, layer.name, [_expanded(layer, node)], **options))

    return handler


def _up_sampling(layer: Any, node: Node, shared: Shared) -> Node:
    check_layout(layer)
    if layer.interpolation not in ("nearest", "bilinear"):
        raise UnsupportedLayerError(
            layer, f"interpolation={layer.interpolation!r}", "use 'nearest' or 'bilinear'"
        )
    return primitive(
        _L.UpSampling2D,
        layer.name,
        [node],
        size=tuple(layer.size),
        interpolation=layer.interpolation,
    )


_NO_OPERATION = (
    _L.Dropout,
    _L.SpatialDropout1D,
    _L.SpatialDropout2D,
    _L.GaussianDropout,
    _L.GaussianNoise,
    _L.AlphaDropout,
    _L.ActivityRegularization,
    _L.Identity,
    _L.RandomFlip,
    _L.RandomRotation,
    _L.RandomTranslation,
    _L.RandomZoom,
    _L.RandomBrightness,
    _L.RandomContrast,
)

LAYERS: dict[type, Handler] = {
    **dict.fromkeys(_NO_OPERATION, _identity),
    _L.Dense: _one(weighted.dense),
    _L.Conv1D: _one(weighted.convolution),
    _L.Conv2D: _one(weighted.convolution),
    _L.DepthwiseConv1D: _one(weighted.depthwise_convolution),
    _L.DepthwiseConv2D: _one(weighted.depthwise_convolution),
    _L.SeparableConv1D: _one(weighted.separable_convolution),
    _L.SeparableConv2D: _one(weighted.separable_convolution),
    _L.PReLU: _one(weighted.prelu),
    _L.BatchNormalization: _one(_batch_normalization),
    _L.Normalization: _one(_normalization),
    _L.Rescaling: _one(_rescaling),
    _L.Activation: _one(_activation),
    _L.ReLU: _one(_relu),
    _L.LeakyReLU: _one(_leaky_relu),
    _L.Softmax: _one(_softmax),
    _L.Add: _merge(_L.Add),
    _L.Subtract: _merge(_L.Subtract),
    _L.Multiply: _merge(_L.Multiply),
    _L.Maximum: _merge(_L.Maximum),
    _L.Minimum: _merge(_L.Minimum),
    _L.Average: _average,
    _L.Concatenate: _concatenate,
    _L.MaxPooling1D: _pooling(_L.MaxPooling2D),
    _L.MaxPooling2D: _pooling(_L.MaxPooling2D),
    _L.AveragePooling1D: _pooling(_L.AveragePooling2D),
    _L.AveragePooling2D: _pooling(_L.AveragePooling2D),
    _L.GlobalAveragePooling1D: _one(_global_average),
    _L.GlobalAveragePooling2D: _one(_global_average),
    _L.GlobalMaxPooling1D: _one(_global_max),
    _L.GlobalMaxPooling2D: _one(_global_max),
    _L.Reshape: _one(_reshape),
    _L.Flatten: _one(_flatten),
    _L.Permute: _one(_permute),
    _L.ZeroPadding1D: _frame(_L.ZeroPadding2D, "padding"),
    _L.ZeroPadding2D: _frame(_L.ZeroPadding2D, "padding"),
    _L.Cropping1D: _frame(_L.Cropping2D, "cropping"),
    _L.Cropping2D: _frame(_L.Cropping2D, "cropping"),
    _L.UpSampling2D: _one(_up_sampling),
}
