"""Calls of `keras.ops` (and Python operators) in functional models as primitives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfeptq.graph import activations
from tfeptq.graph.errors import UnsupportedLayerError
from tfeptq.graph.nodes import Node, affine, primitive, reshape

#: Operation, its settings, and its arguments with nodes in the place of tensors.
Handler = Callable[[Any, Mapping[str, Any], tuple[Any, ...]], Node]


def translate(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    """The primitives of one call.

    Raises:
        UnsupportedLayerError: names the operation and the nearest supported way.
    """
    handler = OPERATIONS.get(type(operation).__name__)
    if handler is None:
        raise UnsupportedLayerError(
            operation, "is not supported", "replace it with supported layers and fine-tune"
        )
    try:
        return handler(operation, config, arguments)
    except UnsupportedLayerError:
        raise
    except ValueError as error:
        raise UnsupportedLayerError(
            operation, str(error), "use numbers, or one value for each channel"
        ) from error


def _arithmetic(kind: type, with_constant: Callable[[Node, str, Any, bool], Node]) -> Handler:
    """Two tensors, or a tensor and a constant on either side."""

    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
        left, right = arguments[:2]
        if isinstance(left, Node) and isinstance(right, Node):
            return primitive(kind, operation.name, [left, right])
        if isinstance(left, Node):
            return with_constant(left, operation.name, _constant(right), False)
        return with_constant(right, operation.name, _constant(left), True)

    return handler


def _constant(value: Any) -> np.ndarray:
    return np.asarray(value, np.float64)


def _add_constant(node: Node, name: str, constant: Any, first: bool) -> Node:
    return affine(node, name, 1.0, constant)


def _subtract_constant(node: Node, name: str, constant: Any, first: bool) -> Node:
    return affine(node, name, -1.0, constant) if first else affine(node, name, 1.0, -constant)


def _multiply_constant(node: Node, name: str, constant: Any, first: bool) -> Node:
    return affine(node, name, constant, 0.0)


def _maximum_constant(node: Node, name: str, constant: Any, first: bool) -> Node:
    if constant.size != 1:
        raise ValueError("the maximum with more than one constant")
    return activations.clip(node, name, float(constant), None)


def _minimum_constant(node: Node, name: str, constant: Any, first: bool) -> Node:
    if constant.size != 1:
        raise ValueError("the minimum with more than one constant")
    negated = affine(node, f"{name}_negate", -1.0, 0.0)
    bounded = activations.clip(negated, name, -float(constant), None)
    return affine(bounded, f"{name}_restore", -1.0, 0.0)


def _divide(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    numerator, denominator = arguments[:2]
    if not isinstance(numerator, Node) or isinstance(denominator, Node):
        raise UnsupportedLayerError(
            operation, "divides by a tensor", "divide by constants only, or multiply"
        )
    return affine(numerator, operation.name, 1.0 / _constant(denominator), 0.0)


def _negative(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return affine(arguments[0], operation.name, -1.0, 0.0)


def _clip(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    low, high = float(config["x_min"]), float(config["x_max"])
    return activations.clip(arguments[0], operation.name, low, high)


def _unary(function: Callable[[Node, str], Node]) -> Handler:
    return lambda operation, config, arguments: function(arguments[0], operation.name)


def _leaky_relu(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return activations.leaky_relu(arguments[0], operation.name, config["negative_slope"])


def _softmax(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    if config["axis"] not in (-1, len(arguments[0].shape)):
        raise UnsupportedLayerError(
            operation, f"axis={config['axis']}", "apply it to the last axis"
        )
    return activations.softmax(arguments[0], operation.name)


def _concatenate(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    tensors = list(arguments[0])
    if not all(isinstance(tensor, Node) for tensor in tensors):
        raise UnsupportedLayerError(operation, "holds a constant", "concatenate tensors only")
    return primitive(keras.layers.Concatenate, operation.name, tensors, axis=config["axis"])


def _mean(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node = arguments[0]
    axes = _axes(config["axis"], len(node.shape) + 1)
    if axes != (1, 2) or len(node.shape) != 3:
        raise UnsupportedLayerError(
            operation, f"axis={config['axis']}", "take the mean over height and width"
        )
    return primitive(
        keras.layers.GlobalAveragePooling2D,
        operation.name,
        [node],
        keepdims=bool(config.get("keepdims", False)),
    )


def _axes(axis: Any, rank: int) -> tuple[int, ...]:
    axes = range(rank) if axis is None else np.atleast_1d(axis)
    return tuple(sorted(int(value) % rank for value in axes))


def _reshape(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node, target = arguments[0], [int(size) for size in config["newshape"]]
    if target[0] not in (-1, 1) or len(target) < 2:
        raise UnsupportedLayerError(
            operation, f"newshape={config['newshape']} moves the batch", "keep the first axis"
        )
    return reshape(node, operation.name, _filled(target[1:], int(np.prod(node.shape))))


def _filled(target: list[int], elements: int) -> tuple[int, ...]:
    known = int(np.prod([size for size in target if size != -1]))
    shape = tuple(elements // known if size == -1 else size for size in target)
    if int(np.prod(shape)) != elements:
        raise ValueError(f"newshape {target} does not hold {elements} values a sample")
    return shape


def _expand_dims(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node = arguments[0]
    shape = list(node.shape)
    for axis in _axes(config["axis"], len(node.shape) + 2):
        shape.insert(axis - 1, 1)
    return reshape(node, operation.name, tuple(shape))


def _squeeze(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node = arguments[0]
    if config["axis"] is None:
        shape = [size for size in node.shape if size != 1]
    else:
        dropped = _axes(config["axis"], len(node.shape) + 1)
        shape = [size for index, size in enumerate(node.shape) if index + 1 not in dropped]
    return reshape(node, operation.name, tuple(shape))


def _transpose(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    axes = config["axes"]
    if axes is None or axes[0] != 0:
        raise UnsupportedLayerError(
            operation, f"axes={axes} moves the batch", "keep the first axis"
        )
    return primitive(keras.layers.Permute, operation.name, [arguments[0]], dims=tuple(axes[1:]))


def _pad(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node, amounts = arguments[0], [tuple(pair) for pair in config["pad_width"]]
    constant = arguments[1] if len(arguments) > 1 else None
    plane = len(node.shape) == 3 and amounts[0] == (0, 0) and amounts[-1] == (0, 0)
    if config["mode"] != "constant" or constant not in (None, 0) or not plane:
        raise UnsupportedLayerError(
            operation, "is not a padding of height and width with zeros", "use ZeroPadding2D"
        )
    padding = tuple(amounts[1:3])
    return primitive(keras.layers.ZeroPadding2D, operation.name, [node], padding=padding)


OPERATIONS: dict[str, Handler] = {
    "Add": _arithmetic(keras.layers.Add, _add_constant),
    "Subtract": _arithmetic(keras.layers.Subtract, _subtract_constant),
    "Multiply": _arithmetic(keras.layers.Multiply, _multiply_constant),
    "Maximum": _arithmetic(keras.layers.Maximum, _maximum_constant),
    "Minimum": _arithmetic(keras.layers.Minimum, _minimum_constant),
    "Divide": _divide,
    "TrueDivide": _divide,
    "Negative": _negative,
    "Clip": _clip,
    "Relu": _unary(activations.relu),
    "Relu6": _unary(lambda node, name: activations.relu(node, name, 6.0)),
    "LeakyRelu": _leaky_relu,
    "Silu": _unary(activations.silu),
    "HardSilu": _unary(activations.named("hard_silu")),
    "Sigmoid": _unary(activations.named("sigmoid")),
    "HardSigmoid": _unary(activations.hard_sigmoid),
    "Tanh": _unary(activations.named("tanh")),
    "Softmax": _softmax,
    "Concatenate": _concatenate,
    "Mean": _mean,
    "Reshape": _reshape,
    "ExpandDims": _expand_dims,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Pad": _pad,
}
