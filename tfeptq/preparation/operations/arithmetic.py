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
from tfeptq.preparation.reductions import magnitude
from tfeptq.preparation.tables import is_table, tabulated


def _two(kind: type) -> Handler:
    """Two tensors, or a tensor and a constant on either side."""

    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
        return pair(kind, operation.name, *operands(operation, *arguments))

    return handler


def _add(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    left, right = added_constants(operands(operation, *arguments))
    return pair(keras.layers.Add, operation.name, left, right)


def operands(operation: Any, left: Any, right: Any) -> tuple[Node, Node]:
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
    if isinstance(denominator, Node):
        inverse = inverted(denominator, f"{operation.name}_inverse")
        return pair(keras.layers.Multiply, operation.name, *operands(operation, numerator, inverse))
    divisor = array_of(denominator)
    if not np.all(divisor):
        raise ConstantError("divides by zero")
    return scale_and_shift(numerator, operation.name, 1.0 / divisor, 0.0)


def inverted(node: Node, name: str) -> Node:
    """1 / x, and of a root 1 / sqrt(x), which is rounded once."""
    if is_table(node, "sqrt"):
        return tabulated(node.inputs[0], name, "rsqrt")
    return tabulated(node, name, "reciprocal")


def _negative(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return affine(arguments[0], operation.name, -1.0, 0.0)


def _square(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return primitive(keras.layers.Multiply, operation.name, [arguments[0], arguments[0]])


def _power(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    """Small whole exponents by multiplication, which every target has; others by a table."""
    base, exponent = arguments[:2]
    if not isinstance(base, Node):
        return _exponential(operation, base, exponent)
    power = _one_number(operation, exponent, "is a power by a tensor")
    if power in _ROOTS:
        return tabulated(base, operation.name, _ROOTS[power])
    if power not in _POWERS:
        return tabulated(base, operation.name, "power", exponent=power)
    result = base
    for index in range(1, int(power)):
        name = operation.name if index == power - 1 else f"{operation.name}_{index}"
        result = primitive(keras.layers.Multiply, name, [result, base])
    return result


def _exponential(operation: Any, base: Any, exponent: Node) -> Node:
    """b^x = exp(x log b)."""
    number = _one_number(operation, base, "is a power of unequal numbers")
    if number <= 0:
        raise UnsupportedLayerError(
            operation, f"is a power of {number:g}", "take powers of a positive number"
        )
    scaled = affine(exponent, f"{operation.name}_scale", float(np.log(number)), 0.0)
    return tabulated(scaled, operation.name, "exp")


def _one_number(operation: Any, value: Any, problem: str) -> float:
    """A constant of equal entries."""
    array = None if isinstance(value, Node) else array_of(value)
    if array is None or not array.size or np.any(array != array.flat[0]):
        raise UnsupportedLayerError(operation, problem, "give one number")
    return float(array.flat[0])


def _by_number(function: str) -> Handler:
    """A function of a tensor and a divisor."""

    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
        node, value = arguments[:2]
        divisor = _one_number(operation, value, "divides by a tensor")
        if not isinstance(node, Node) or not divisor:
            raise UnsupportedLayerError(operation, "divides by zero", "give another number")
        return tabulated(node, operation.name, function, divisor=divisor)

    return handler


def _log_add_exp(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    """log(exp x + exp y) = max(x, y) + softplus(-|x - y|)."""
    name = operation.name
    left, right = operands(operation, *arguments)
    largest = pair(keras.layers.Maximum, f"{name}_max", left, right)
    smallest = pair(keras.layers.Minimum, f"{name}_min", left, right)
    distance = pair(keras.layers.Subtract, f"{name}_distance", smallest, largest)
    rest = tabulated(distance, f"{name}_rest", "softplus")
    return pair(keras.layers.Add, name, largest, rest)


def _hypot(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    """sqrt(x^2 + y^2)."""
    name = operation.name
    squares = [
        pair(keras.layers.Multiply, f"{name}_square_{index}", node, node)
        for index, node in enumerate(operands(operation, *arguments))
    ]
    return tabulated(pair(keras.layers.Add, f"{name}_sum", *squares), name, "sqrt")


def _absolute(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return magnitude(arguments[0], operation.name)


#: Exponents that a few multiplications give.
_POWERS = (1.0, 2.0, 3.0, 4.0)
#: Exponents that are functions of a name.
_ROOTS = {0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}

HANDLERS: dict[str, Handler] = {
    "Absolute": _absolute,
    "Add": _add,
    "Subtract": _two(keras.layers.Subtract),
    "Multiply": _two(keras.layers.Multiply),
    "Maximum": _two(keras.layers.Maximum),
    "Minimum": _two(keras.layers.Minimum),
    "Divide": _divide,
    "FloorDivide": _by_number("floor_divide"),
    "Hypot": _hypot,
    "Logaddexp": _log_add_exp,
    "Mod": _by_number("mod"),
    "TrueDivide": _divide,
    "Negative": _negative,
    "Square": _square,
    "Power": _power,
}
