"""Convolutions and matrix products with constant weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfeptq.canonical.matmul_layer import MatMul
from tfeptq.preparation.convolutions import (
    Window,
    convolve,
    convolve_depthwise,
    convolve_separable,
    planar,
)
from tfeptq.preparation.errors import (
    UnsupportedLayerError,
    check_data_format,
    check_dimensions,
)
from tfeptq.preparation.nodes import Node, Weights, primitive
from tfeptq.preparation.operations.arguments import Handler, only_tensor, weights
from tfeptq.preparation.operations.reductions import inner_axes
from tfeptq.preparation.permutes import permute


def _conv(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    check_data_format(operation, config["data_format"])
    node = only_tensor(operation, arguments[0])
    check_dimensions(operation, node.shape)
    raw = weights(operation, arguments[1])
    kernel_and_bias = Weights([planar(raw), np.zeros(raw.shape[-1])])
    return convolve(operation.name, node, kernel_and_bias, _window(config, node, raw))


def _depthwise(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    check_data_format(operation, config["data_format"])
    node = only_tensor(operation, arguments[0])
    check_dimensions(operation, node.shape)
    raw = weights(operation, arguments[1])
    return convolve_depthwise(operation.name, node, _without_bias(raw), _window(config, node, raw))


def _separable(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    check_data_format(operation, config["data_format"])
    node = only_tensor(operation, arguments[0])
    check_dimensions(operation, node.shape)
    raw = weights(operation, arguments[1])
    pointwise = planar(weights(operation, arguments[2]))
    return convolve_separable(
        operation.name,
        node,
        _without_bias(raw),
        Weights([pointwise, np.zeros(pointwise.shape[-1])]),
        _window(config, node, raw),
    )


def _without_bias(raw: np.ndarray) -> Weights:
    """Weights of a depthwise convolution."""
    return Weights([planar(raw), np.zeros(raw.shape[-2] * raw.shape[-1])])


def _window(config: Mapping[str, Any], node: Node, raw: np.ndarray) -> Window:
    return Window.on(
        node,
        kernel_size=raw.shape[:-2],
        strides=config["strides"],
        dilation_rate=config["dilation_rate"],
        padding=config["padding"],
    )


def _matmul(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    if all(isinstance(argument, Node) for argument in arguments[:2]):
        return _product(operation, *arguments[:2])
    node = only_tensor(operation, arguments[0])
    kernel = weights(operation, arguments[1])
    if kernel.ndim != 2:
        raise UnsupportedLayerError(
            operation, f"multiplies with an array of shape {kernel.shape}", "use a matrix"
        )
    units = kernel.shape[1]
    return primitive(
        keras.layers.Dense, operation.name, [node], weights=[kernel, np.zeros(units)], units=units
    )


def _product(operation: Any, left: Node, right: Node) -> Node:
    """Of two computed tensors, whose axes before the matrices are equal."""
    if (
        len(left.shape) != len(right.shape)
        or len(left.shape) < 2
        or (left.shape[:-2] != right.shape[:-2])
    ):
        raise UnsupportedLayerError(
            operation,
            f"multiplies tensors of shapes {(None, *left.shape)} and {(None, *right.shape)}",
            "give both the same axes in front of their matrices",
        )
    return primitive(MatMul, operation.name, [left, right], transpose_b=False)


def _cumulative(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    """Sums up to each place of an axis: the product with a triangle of ones."""
    node, name = arguments[0], operation.name
    if config["axis"] is None:
        raise UnsupportedLayerError(operation, "adds up the whole batch", "name an axis")
    (axis,) = inner_axes(operation, config["axis"], node)
    order = [*(other for other in range(len(node.shape)) if other != axis), axis]
    moved, size = permute(node, f"{name}_order", order), node.shape[axis]
    ones = [np.triu(np.ones((size, size))), np.zeros(size)]
    sums = primitive(keras.layers.Dense, f"{name}_sums", [moved], weights=ones, units=size)
    return permute(sums, name, [order.index(place) for place in range(len(order))])


HANDLERS: dict[str, Handler] = {
    "Conv": _conv,
    "Cumsum": _cumulative,
    "DepthwiseConv": _depthwise,
    "Dot": _matmul,
    "Matmul": _matmul,
    "SeparableConv": _separable,
}
