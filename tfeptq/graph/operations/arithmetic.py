"""Arithmetic of two tensors, or of a tensor and a constant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfeptq.graph import activations
from tfeptq.graph.errors import UnsupportedLayerError
from tfeptq.graph.nodes import ConstantError, Node, affine, primitive
from tfeptq.graph.operations.arguments import Handler, constant


def _two(kind: type, with_constant: Callable[[Node, str, np.ndarray, bool], Node]) -> Handler:
    """Two tensors, or a tensor and a constant on either side."""

    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
        left, right = arguments[:2]
        if isinstance(left, Node) and isinstance(right, Node):
            return primitive(kind, operation.name, [left, right])
        if isinstance(left, Node):
            return with_constant(left, operation.name, constant(right), False)
        return with_constant(right, operation.name, constant(left), True)

    return handler


def _add(node: Node, name: str, value: np.ndarray, first: bool) -> Node:
    return affine(node, name, 1.0, value)


def _subtract(node: Node, name: str, value: np.ndarray, first: bool) -> Node:
    return affine(node, name, -1.0, value) if first else affine(node, name, 1.0, -value)


def _multiply(node: Node, name: str, value: np.ndarray, first: bool) -> Node:
    return affine(node, name, value, 0.0)


def _maximum(node: Node, name: str, value: np.ndarray, first: bool) -> Node:
    return activations.clip(node, name, _number(value), None)


def _minimum(node: Node, name: str, value: np.ndarray, first: bool) -> Node:
    negated = affine(node, f"{name}_negate", -1.0, 0.0)
    bounded = activations.clip(negated, name, -_number(value), None)
    return affine(bounded, f"{name}_restore", -1.0, 0.0)


def _number(value: np.ndarray) -> float:
    if value.size != 1:
        raise ConstantError("compares with more than one number")
    return float(value.reshape(()))


def _divide(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    numerator, denominator = arguments[:2]
    if not isinstance(numerator, Node) or isinstance(denominator, Node):
        raise UnsupportedLayerError(
            operation, "divides by a tensor", "divide by constants only, or multiply"
        )
    return affine(numerator, operation.name, 1.0 / constant(denominator), 0.0)


def _negative(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return affine(arguments[0], operation.name, -1.0, 0.0)


def _square(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return primitive(keras.layers.Multiply, operation.name, [arguments[0], arguments[0]])


def _power(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    base, exponent = arguments[:2]
    if not isinstance(base, Node) or isinstance(exponent, Node) or np.any(constant(exponent) != 2):
        raise UnsupportedLayerError(
            operation, "is a power other than the square", "multiply tensors instead"
        )
    return _square(operation, config, arguments)


HANDLERS: dict[str, Handler] = {
    "Add": _two(keras.layers.Add, _add),
    "Subtract": _two(keras.layers.Subtract, _subtract),
    "Multiply": _two(keras.layers.Multiply, _multiply),
    "Maximum": _two(keras.layers.Maximum, _maximum),
    "Minimum": _two(keras.layers.Minimum, _minimum),
    "Divide": _divide,
    "TrueDivide": _divide,
    "Negative": _negative,
    "Square": _square,
    "Power": _power,
}
