"""Comparisons, as tensors of ones and zeros, and what chooses by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfeptq.preparation.constants import array_of, broadcast_constant
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.merges import pair
from tfeptq.preparation.nodes import Constant, Node, affine
from tfeptq.preparation.operations.arguments import Handler, only_tensor
from tfeptq.preparation.operations.arithmetic import operands
from tfeptq.preparation.row_numbers import is_part_of_inputs
from tfeptq.preparation.tables import tabulated
from tfeptq.preparation.token_functions import of_tokens

_L = keras.layers


def _compared(function: str, *, negates: bool = False) -> Handler:
    """Whether the left operand is greater than, at least, or equal to the right one.

    Two tensors by their difference: what is less than half a step of it apart is equal.

    Args:
        negates: the opposite of it.
    """

    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
        name = operation.name
        node, bound, is_mirrored = _with_bound(operation, *arguments)
        made = function if not is_mirrored else _MIRRORED[function]
        opposite = negates != (is_mirrored and function in _ORDERS)
        found = tabulated(node, f"{name}_is" if opposite else name, made, **{_SETTING[made]: bound})
        return _opposite(found, name) if opposite else found

    return handler


#: b > x is not (x >= b), and the other way round.
_ORDERS = ("greater", "at_least")
_MIRRORED = {"greater": "at_least", "at_least": "greater", "equal": "equal"}
_SETTING = {"greater": "bound", "at_least": "bound", "equal": "value"}


def _exact(function: np.ufunc, otherwise: Handler) -> Handler:
    """Of numbers of rows exactly, of other tensors as they are rounded."""

    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Any:
        left, right = arguments[:2]
        tokens, other = (left, right) if isinstance(left, Node) else (right, left)
        number = None if isinstance(other, Node) else array_of(other)
        if number is None or number.size != 1 or not is_part_of_inputs(tokens):
            return otherwise(operation, config, arguments)
        value = number.item()

        def of_number(numbers: np.ndarray) -> np.ndarray:
            return function(numbers, value) if tokens is left else function(value, numbers)

        def of_values() -> Any:
            return otherwise(operation, config, arguments)

        return of_tokens(operation, tokens, of_number, of_values)

    return handler


def _with_bound(operation: Any, left: Any, right: Any) -> tuple[Node, float, bool]:
    """A tensor, the number that it is compared with, and whether the number is on the left."""
    for node, value, is_mirrored in ((left, right, False), (right, left, True)):
        if isinstance(node, Node) and not isinstance(value, Node):
            array = array_of(value)
            if array.size and np.all(array == array.flat[0]):
                return node, float(array.flat[0]), is_mirrored
    difference = pair(
        _L.Subtract, f"{operation.name}_difference", *operands(operation, left, right)
    )
    return difference, 0.0, False


def _opposite(node: Node, name: str) -> Node:
    return affine(node, name, -1.0, 1.0)


def _both(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return pair(_L.Multiply, operation.name, *operands(operation, *arguments))


def _either(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return pair(_L.Maximum, operation.name, *operands(operation, *arguments))


def _not(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return _opposite(arguments[0], operation.name)


def _where(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    """c x + (1 - c) y, for a condition c of ones and zeros."""
    condition, *choices = arguments
    if len(choices) != 2 or any(choice is None for choice in choices):
        raise UnsupportedLayerError(
            operation, "returns places", "give a value where the condition holds and one elsewhere"
        )
    name = operation.name
    condition = _of_ones(operation, condition, choices)
    other = affine(condition, f"{name}_else", -1.0, 1.0)
    if condition.kind is Constant:
        other = broadcast_constant(name, 1.0 - condition.options["value"], condition)
    parts = [
        pair(_L.Multiply, f"{name}_{index}", *operands(operation, share, choice))
        for index, (share, choice) in enumerate(((condition, choices[0]), (other, choices[1])))
    ]
    return pair(_L.Add, name, *parts)


def _of_ones(operation: Any, condition: Any, choices: list[Any]) -> Node:
    if isinstance(condition, Node):
        return condition
    chosen = next((choice for choice in choices if isinstance(choice, Node)), None)
    like = only_tensor(operation, chosen)
    return broadcast_constant(operation.name, np.asarray(condition).astype(np.float64), like)


HANDLERS: dict[str, Handler] = {
    "Equal": _exact(np.equal, _compared("equal")),
    "Greater": _exact(np.greater, _compared("greater")),
    "GreaterEqual": _exact(np.greater_equal, _compared("at_least")),
    "Less": _exact(np.less, _compared("at_least", negates=True)),
    "LessEqual": _exact(np.less_equal, _compared("greater", negates=True)),
    "LogicalAnd": _both,
    "LogicalNot": _not,
    "LogicalOr": _either,
    "NotEqual": _exact(np.not_equal, _compared("equal", negates=True)),
    "Where": _where,
}
