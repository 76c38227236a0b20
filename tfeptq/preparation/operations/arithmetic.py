"""Arithmetic of two tensors, or of a tensor and a constant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfeptq.preparation.addition import added_constants
from tfeptq.preparation.constants import array_of, broadcast_constant
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.merges import pair, scale_and_shift
from tfeptq.preparation.nodes import ConstantError, Node, affine, primitive
from tfeptq.preparation.operations.arguments import Handler


def _two(kind: type) -> Handler:
    """Two tensors, or a tensor and a constant on either side."""

    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
        return pair(kind, operation.name, *_operands(operation, *arguments))

    return handler


def _add(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    left, right = added_constants(_operands(operation, *arguments))
    return pair(keras.layers.Add, operation.name, left, right)


def _operands(operation: Any, left: Any, right: Any) -> tuple[Node, Node]:
    if not isinstance(left, Node):
        return broadcast_constant(operation.name, left, right), right
    if not isinstance(right, Node):
        return left, broadcast_constant(operation.name, right, left)
    if len(left.shape) != len(right.shape):
        raise UnsupportedLayerError(
            operation,
            f"takes tensors of shapes {(None, *left.shape)} and {(None, *right.shape)}, where the "
            "batch of one meets another axis",
            "give them the same number of axes",
        )
    return left, right


def _divide(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    numerator, denominator = arguments[:2]
    if not isinstance(numerator, Node) or isinstance(denominator, Node):
        raise UnsupportedLayerError(
            operation, "divides by a tensor", "divide by constants only, or multiply"
        )
    divisor = array_of(denominator)
    if not np.all(divisor):
        raise ConstantError("divides by zero")
    return scale_and_shift(numerator, operation.name, 1.0 / divisor, 0.0)


def _negative(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return affine(arguments[0], operation.name, -1.0, 0.0)


def _square(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return primitive(keras.layers.Multiply, operation.name, [arguments[0], arguments[0]])


def _power(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    """Small whole exponents by multiplication."""
    base, exponent = arguments[:2]
    power = None if isinstance(exponent, Node) else array_of(exponent)
    if not isinstance(base, Node) or power is None or np.any(power != power.flat[0]):
        raise UnsupportedLayerError(operation, "is a power by a tensor", "give one exponent")
    if power.flat[0] not in _POWERS:
        raise UnsupportedLayerError(
            operation, f"is the power {power.flat[0]:g}", f"use one of {_POWERS}"
        )
    result = base
    for index in range(1, int(power.flat[0])):
        name = operation.name if index == power.flat[0] - 1 else f"{operation.name}_{index}"
        result = primitive(keras.layers.Multiply, name, [result, base])
    return result


def _absolute(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    """The larger one of a tensor and its negative."""
    negative = affine(arguments[0], f"{operation.name}_negative", -1.0, 0.0)
    return primitive(keras.layers.Maximum, operation.name, [arguments[0], negative])


#: Exponents that a few multiplications give.
_POWERS = (1, 2, 3, 4)

HANDLERS: dict[str, Handler] = {
    "Absolute": _absolute,
    "Add": _add,
    "Subtract": _two(keras.layers.Subtract),
    "Multiply": _two(keras.layers.Multiply),
    "Maximum": _two(keras.layers.Maximum),
    "Minimum": _two(keras.layers.Minimum),
    "Divide": _divide,
    "TrueDivide": _divide,
    "Negative": _negative,
    "Square": _square,
    "Power": _power,
}
