"""Keras layers as primitives, one function a family; `LAYERS` says which class takes which."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from tfeptq.preparation import activations, pooling, weighted
from tfeptq.preparation.errors import UnsupportedLayerError, check_layout
from tfeptq.preparation.lookups import look_up
from tfeptq.preparation.masks import masked
from tfeptq.preparation.merges import merge, scale_and_shift
from tfeptq.preparation.nodes import (
    ConstantError,
    Node,
    affine,
    as_image,
    as_sequence,
    in_plane,
    primitive,
    reshape,
)
from tfeptq.preparation.permutes import permute
from tfeptq.preparation.resizing import resized
from tfeptq.preparation.weighted import Shared

Handler = Callable[[Any, list[Node], Shared], Node]
_L = keras.layers


def translate(layer: keras.Layer, inputs: list[Node], shared: Shared) -> Node:
    """The primitives of one call of a layer.

    Raises:
        UnsupportedLayerError: names the layer, its class and the nearest supported way.
    """
    return LAYERS[type(layer)](layer, inputs, shared)


def is_known(layer: keras.Layer) -> bool:
    """Whether a layer has an entry of its own; of exact classes: others may compute otherwise."""
    return type(layer) in LAYERS and not activations.is_foreign(getattr(layer, "activation", None))


def refusal(layer: keras.Layer, inside: UnsupportedLayerError) -> UnsupportedLayerError:
    """What to say of a layer whose parts cannot be placed."""
    nearest = _nearest(layer)
    if nearest is not None:
        return UnsupportedLayerError(layer, "is not supported", nearest)
    if inside.operation is layer:
        return inside
    return UnsupportedLayerError(layer, f"holds what is not supported ({inside})", _advice(layer))


def refuse_modes(layer: keras.Layer) -> None:
    """Raises UnsupportedLayerError for a layer that computes in what a canonical model lacks."""
    if getattr(layer, "quantization_mode", None) is not None:
        raise UnsupportedLayerError(
            layer, f"is quantized by Keras ({layer.quantization_mode})", "pass the float model"
        )
    if not keras.backend.is_float_dtype(layer.compute_dtype):
        raise UnsupportedLayerError(
            layer,
            f"computes in {layer.compute_dtype}",
            _nearest(layer) or "give it a floating-point dtype",
        )


def refuse_masking(operations: Iterable[Any]) -> None:
    """Raises UnsupportedLayerError for a layer that finds a mask in what it reads."""
    for layer in operations:
        if type(layer) is _L.Masking:
            raise UnsupportedLayerError(
                layer,
                "compares numbers, which integers do not tell apart",
                "make the mask an input of ones and zeros, and call layers with mask=",
            )


_BEFORE = "compute it before the model and pass its result"
_NEAREST = {
    "AdditiveAttention": "use Attention",
    "CategoryEncoding": (
        "use keras.ops.one_hot of an input of the model; keras.ops.max over several of them is "
        "'multi_hot', keras.ops.sum 'count'"
    ),
    "Discretization": _BEFORE,
    "HashedCrossing": _BEFORE,
    "Hashing": _BEFORE,
    "IntegerLookup": _BEFORE,
    "StringLookup": _BEFORE,
    "TextVectorization": _BEFORE,
}


def _nearest(layer: keras.Layer) -> str | None:
    """What to do instead of one of Keras's own layers, where there is a word for it."""
    is_of_keras = type(layer).__module__.partition(".")[0] == "keras"
    return _NEAREST.get(type(layer).__name__) if is_of_keras else None


def _advice(layer: keras.Layer) -> str:
    kind = type(layer)
    if kind.__name__ in _NEAREST:
        return _NEAREST[kind.__name__]
    for ancestor in kind.__mro__[1:]:
        if ancestor in LAYERS:
            return f"use {ancestor.__name__} itself and write what differs with keras.ops"
    return "replace it with supported layers and fine-tune"


def _identity(layer: Any, inputs: list[Node], shared: Shared) -> Node:
    return inputs[0]


def _one(handler: Callable[[Any, Node, Shared], Node]) -> Handler:
    return lambda layer, inputs, shared: handler(layer, inputs[0], shared)


def _batch_normalization(layer: Any, node: Node, shared: Shared) -> Node:
    axis = (layer.axis if isinstance(layer.axis, int) else layer.axis[0]) % (len(node.shape) + 1)
    variance = _array(layer.moving_variance)
    scale = 1.0 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale = scale * _array(layer.gamma)
    offset = -_array(layer.moving_mean) * scale
    if layer.center:
        offset = offset + _array(layer.beta)
    if axis == len(node.shape):
        return affine(node, layer.name, scale, offset)
    behind = (1,) * (len(node.shape) - axis)
    return _constant_affine(layer, node, scale.reshape(-1, *behind), offset.reshape(-1, *behind))


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
        return scale_and_shift(node, layer.name, scale, offset)
    except ConstantError as error:
        raise UnsupportedLayerError(
            layer, str(error), "give it one value for each position"
        ) from error


def _array(value: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(value), np.float64)


def _activation(layer: Any, node: Node, shared: Shared) -> Node:
    return activations.activate(node, layer, layer.name)


def _relu(layer: Any, node: Node, shared: Shared) -> Node:
    return activations.relu_layer(node, layer, layer.name)


def _leaky_relu(layer: Any, node: Node, shared: Shared) -> Node:
    return activations.leaky_relu(node, layer.name, layer.negative_slope)


def _embedding(layer: Any, node: Node, shared: Shared) -> Node:
    # What mask_zero masks is in the graph: layers behind are called with `mask`.
    return look_up(layer, node, _array(layer.embeddings), layer.name)


def _elu(layer: Any, node: Node, shared: Shared) -> Node:
    return activations.elu(node, layer.name, float(layer.alpha))


def _softmax(layer: Any, inputs: list[Node], shared: Shared) -> Node:
    node, *mask = inputs
    if mask:
        node = masked(f"{layer.name}_mask", node, mask[0])
    return activations.softmax_over(layer, node, layer.axis)


def _merge(kind: type) -> Handler:
    return lambda layer, inputs, shared: merge(kind, layer.name, inputs)


def _average(layer: Any, inputs: list[Node], shared: Shared) -> Node:
    total = merge(_L.Add, layer.name, inputs)
    return affine(total, f"{layer.name}_scale", 1.0 / len(inputs), 0.0)


def _concatenate(layer: Any, inputs: list[Node], shared: Shared) -> Node:
    if len(inputs) == 1:
        return inputs[0]
    if layer.axis % (len(inputs[0].shape) + 1) == 0:
        raise UnsupportedLayerError(layer, "axis=0 is the batch", "concatenate another axis")
    return primitive(_L.Concatenate, layer.name, inputs, axis=layer.axis)


def _pooling(kind: type) -> Handler:
    def handler(layer: Any, inputs: list[Node], shared: Shared) -> Node:
        check_layout(layer)
        return pooling.pool(
            kind,
            layer.name,
            inputs[0],
            size=layer.pool_size,
            strides=layer.strides,
            padding=layer.padding,
        )

    return handler


def _global_average(layer: Any, node: Node, shared: Shared) -> Node:
    check_layout(layer)
    return pooling.global_average(layer.name, node, keepdims=bool(layer.keepdims))


def _global_max(layer: Any, node: Node, shared: Shared) -> Node:
    check_layout(layer)
    return pooling.global_max(layer.name, node, keepdims=bool(layer.keepdims))


def _reshape(layer: Any, node: Node, shared: Shared) -> Node:
    shape = layer.compute_output_shape((None, *node.shape))[1:]
    return reshape(node, layer.name, tuple(shape))


def _flatten(layer: Any, node: Node, shared: Shared) -> Node:
    check_layout(layer)
    return reshape(node, layer.name, (int(np.prod(node.shape)),))


def _permute(layer: Any, node: Node, shared: Shared) -> Node:
    return permute(node, layer.name, [axis - 1 for axis in layer.dims])


def _frame(kind: type, setting: str) -> Handler:
    """ZeroPadding and Cropping, one- and two-dimensional."""

    def handler(layer: Any, inputs: list[Node], shared: Shared) -> Node:
        check_layout(layer)
        node, amounts = inputs[0], getattr(layer, setting)
        options: dict[str, Any] = {
            setting: amounts if len(node.shape) == 3 else ((0, 0), tuple(amounts))
        }
        framed = primitive(kind, layer.name, [as_image(node, layer.name)], **options)
        return as_sequence(framed, node, layer.name)

    return handler


def _center_crop(layer: Any, node: Node, shared: Shared) -> Node:
    """Of an image that is large enough; a smaller one is resized, which depends on its size."""
    check_layout(layer)
    rest = [
        have - want for have, want in zip(node.shape, (layer.height, layer.width), strict=False)
    ]
    if len(node.shape) != 3 or min(rest) < 0:
        raise UnsupportedLayerError(
            layer,
            f"enlarges {node.shape[:2]} to {(layer.height, layer.width)}",
            "use Resizing, and crop what is too much by Cropping2D",
        )
    amounts = tuple((each // 2, each - each // 2) for each in rest)
    return primitive(_L.Cropping2D, layer.name, [node], cropping=amounts)


def _up_sampling(layer: Any, node: Node, shared: Shared) -> Node:
    check_layout(layer)
    if layer.interpolation not in ("nearest", "bilinear"):
        raise UnsupportedLayerError(
            layer, f"interpolation={layer.interpolation!r}", "use 'nearest' or 'bilinear'"
        )
    return _enlarged(layer, node, layer.interpolation)


def _up_sampling_1d(layer: Any, node: Node, shared: Shared) -> Node:
    return _enlarged(layer, node, "nearest")


def _enlarged(layer: Any, node: Node, interpolation: str) -> Node:
    image = as_image(node, layer.name)
    enlarged = primitive(
        _L.UpSampling2D,
        layer.name,
        [image],
        size=in_plane(layer.size, node),
        interpolation=interpolation,
    )
    return as_sequence(enlarged, node, layer.name)


def _resizing(layer: Any, node: Node, shared: Shared) -> Node:
    check_layout(layer)
    options = {name: getattr(layer, name) for name in _RESIZING}
    return resized(layer, node, {**options, "size": (layer.height, layer.width)})


_RESIZING = (
    *("interpolation", "antialias", "crop_to_aspect_ratio", "pad_to_aspect_ratio", "fill_value"),
)

#: Active in training only; RandomCrop is not among them, as it also resizes at inference.
_AUGMENTATIONS = (
    _L.RandomFlip,
    _L.RandomRotation,
    _L.RandomTranslation,
    _L.RandomZoom,
    _L.RandomBrightness,
    _L.RandomColorDegeneration,
    _L.AugMix,
    _L.CutMix,
    _L.MixUp,
    _L.RandomColorJitter,
    _L.RandomContrast,
    _L.RandomElasticTransform,
    _L.RandomErasing,
    _L.RandomGaussianBlur,
    _L.RandomGrayscale,
    _L.RandomHue,
    _L.RandomInvert,
    _L.RandomPerspective,
    _L.RandomPosterization,
    _L.RandomSaturation,
    _L.RandomSharpness,
    _L.RandomShear,
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
    *_AUGMENTATIONS,
)

LAYERS: dict[type, Handler] = {
    **dict.fromkeys(_NO_OPERATION, _identity),
    _L.Dense: _one(weighted.dense),
    _L.Conv1D: _one(weighted.convolution),
    _L.Conv2D: _one(weighted.convolution),
    _L.Conv1DTranspose: _one(weighted.transposed_convolution),
    _L.Conv2DTranspose: _one(weighted.transposed_convolution),
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
    _L.ELU: _one(_elu),
    _L.Softmax: _softmax,
    _L.Embedding: _one(_embedding),
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
    _L.CenterCrop: _one(_center_crop),
    _L.Resizing: _one(_resizing),
    _L.UpSampling1D: _one(_up_sampling_1d),
    _L.UpSampling2D: _one(_up_sampling),
}
