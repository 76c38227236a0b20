"""Convolutions and poolings."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.preparation.tensorflow_graphs.operators.handler import (
    Handler,
    constant,
    in_plane,
    integers,
    require_channels_last,
)
from tfeptq.preparation.tensorflow_graphs.scope import Scope
from tfeptq.preparation.tensorflow_graphs.values import Phases, UnreadableGraphError, symbol

_L = keras.layers


def _padded(operation: tf.Operation, tensor: Any) -> tuple[Any, str]:
    """The tensor with explicit zeros around it, and the padding that is left to the layer."""
    require_channels_last(operation)
    padding = operation.get_attr("padding").decode().lower()
    if isinstance(tensor, Phases):
        return tensor.tensor, padding
    if padding != "explicit":
        return symbol(tensor), padding
    pairs = np.reshape(operation.get_attr("explicit_paddings"), (4, 2))
    return keras.ops.pad(symbol(tensor), [tuple(int(n) for n in pair) for pair in pairs]), "valid"


def _phases(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    """What a convolution with gaps reads: zeros around, and every n-th place."""
    tensor, rates = symbol(read[0]), tuple(integers(operation, read[1]))
    pairs = [tuple(pair) for pair in constant(operation, read[2]).tolist()]
    rest = [(0, 0)] * (len(tensor.shape) - 1 - len(pairs))
    return Phases(keras.ops.pad(tensor, [(0, 0), *pairs, *rest]), rates)


def _unphased(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    if not isinstance(read[0], Phases) or read[0].rates != tuple(integers(operation, read[1])):
        raise UnreadableGraphError(f"{operation.name!r} ends no SpaceToBatchND")
    tensor, crops = read[0].tensor, constant(operation, read[2]).tolist()
    sizes = tensor.shape[1:]
    kept = [slice(low, size - high) for (low, high), size in zip(crops, sizes, strict=False)]
    return tensor[(slice(None), *kept)]


def _window(operation: tf.Operation, padding: str, tensor: Any) -> dict[str, Any]:
    """How a convolution moves over its image, as a layer has it: over phases it has gaps."""
    settings = {
        "strides": in_plane(operation, "strides"),
        "dilation_rate": in_plane(operation, "dilations"),
        "padding": padding,
    }
    if not isinstance(tensor, Phases):
        return settings
    if settings != {"strides": (1, 1), "dilation_rate": (1, 1), "padding": "valid"}:
        raise UnreadableGraphError(f"{operation.name!r} has gaps and {settings}")
    return {**settings, "dilation_rate": tensor.rates}


def _seen_as(tensor: Any, output: Any) -> Any:
    return Phases(output, tensor.rates) if isinstance(tensor, Phases) else output


def _convolution(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    tensor, padding = _padded(operation, read[0])
    kernel = constant(operation, read[1])
    settings = _window(operation, padding, read[0])

    def make(name: str) -> keras.Layer:
        return _L.Conv2D(
            kernel.shape[-1],
            kernel.shape[:2],
            groups=tensor.shape[-1] // kernel.shape[2],
            use_bias=False,
            name=name,
            **settings,
        )

    return _seen_as(read[0], scope.call(operation, make, tensor, [kernel], settings))


def _depthwise(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    tensor, padding = _padded(operation, read[0])
    kernel = constant(operation, read[1])
    settings = _window(operation, padding, read[0])

    def make(name: str) -> keras.Layer:
        return _L.DepthwiseConv2D(
            kernel.shape[:2],
            depth_multiplier=kernel.shape[-1],
            use_bias=False,
            name=name,
            **settings,
        )

    return _seen_as(read[0], scope.call(operation, make, tensor, [kernel], settings))


def _transposed(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    """The gradient of a convolution, which is the transposed convolution."""
    kernel, (tensor, padding) = constant(operation, read[1]), _padded(operation, read[2])
    wanted = tuple(integers(operation, read[0])[1:])
    settings = {"strides": in_plane(operation, "strides"), "padding": padding}

    def make(name: str) -> keras.Layer:
        return _L.Conv2DTranspose(
            kernel.shape[2], kernel.shape[:2], use_bias=False, name=name, **settings
        )

    output = scope.call(operation, make, tensor, [kernel], settings)
    if tuple(output.shape[1:]) != wanted or in_plane(operation, "dilations") != (1, 1):
        raise UnreadableGraphError(
            f"{operation.name!r} is a transposed convolution to {wanted}, Keras's gives "
            f"{tuple(output.shape[1:])}"
        )
    return output


def _pooling(kind: type) -> Handler:
    def handler(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
        require_channels_last(operation)
        padding = operation.get_attr("padding").decode().lower()
        if padding == "explicit":
            raise UnreadableGraphError(f"{operation.name!r} has explicit padding")
        size, strides = in_plane(operation, "ksize"), in_plane(operation, "strides")

        def make(name: str) -> keras.Layer:
            return kind(size, strides=strides, padding=padding, name=name)

        return scope.call(operation, make, symbol(read[0]))

    return handler


HANDLERS: dict[str, Handler] = {
    "AvgPool": _pooling(_L.AveragePooling2D),
    "BatchToSpaceND": _unphased,
    "Conv2D": _convolution,
    "Conv2DBackpropInput": _transposed,
    "DepthwiseConv2dNative": _depthwise,
    "MaxPool": _pooling(_L.MaxPooling2D),
    "SpaceToBatchND": _phases,
}
