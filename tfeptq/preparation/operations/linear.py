"""Convolutions and matrix products with constant weights."""

from __future__ import annotations

import math
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
from tfeptq.preparation.nodes import Node, Weights, primitive, reshape
from tfeptq.preparation.operations.arguments import Handler, only_tensor, weights
from tfeptq.preparation.operations.reductions import inner_axes
from tfeptq.preparation.permutes import permute
from tfeptq.preparation.separate_products import multiplied_separately


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
    left, right = arguments[:2]
    if isinstance(left, Node) and isinstance(right, Node):
        return _product(operation, left, right)
    if isinstance(right, Node):
        return _from_the_left(operation, left, right)
    return _times(operation, operation.name, left, _matrix(operation, right, left))


def _dot(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node, kernel = only_tensor(operation, arguments[0]), weights(operation, arguments[1])
    return _dense(operation, operation.name, node, kernel)


def _from_the_left(operation: Any, given: Any, node: Node) -> Node:
    """A constant matrix times the matrices of a tensor, as a graph's neighbours are mixed."""
    rank, name = len(node.shape), operation.name
    if rank < 2:
        raise UnsupportedLayerError(
            operation, "multiplies across samples", "give the tensor an axis in front of its last"
        )
    order = [*range(rank - 2), rank - 1, rank - 2]
    turned, kernel = permute(node, f"{name}_order", order), _matrix(operation, given, node)
    product = _times(operation, name, turned, np.swapaxes(kernel, -1, -2))
    return permute(product, f"{name}_result", order)


def _matrix(operation: Any, given: Any, node: Node) -> np.ndarray:
    """A constant factor without the axes in front that let it meet those of a tensor."""
    kernel = weights(operation, given)
    while 2 < kernel.ndim <= len(node.shape) + 1 and kernel.shape[0] == 1:
        kernel = kernel[0]
    return kernel


def _times(operation: Any, name: str, node: Node, kernel: np.ndarray) -> Node:
    """A tensor times one matrix, or times one for each place of its axes in front of matrices."""
    *places, terms, columns = kernel.shape
    if not places or tuple(places) != node.shape[:-2]:
        return _dense(operation, name, node, kernel)
    count, rows = math.prod(places), node.shape[-2]
    flat = reshape(node, f"{name}_places", (count, rows, terms))
    product = multiplied_separately(name, flat, kernel.reshape(count, terms, columns))
    return reshape(product, f"{name}_shape", (*places, rows, columns))


def _dense(operation: Any, name: str, node: Node, kernel: np.ndarray) -> Node:
    if kernel.ndim != 2:
        raise UnsupportedLayerError(
            operation, f"multiplies with an array of shape {kernel.shape}", "use a matrix"
        )
    units = kernel.shape[1]
    return primitive(
        keras.layers.Dense, name, [node], weights=[kernel, np.zeros(units)], units=units
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
    "Dot": _dot,
    "Matmul": _matmul,
    "SeparableConv": _separable,
}
