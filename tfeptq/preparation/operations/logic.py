"""Comparisons of tokens with numbers, and what masks of ones and zeros are put together with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfeptq.preparation.constants import array_of, broadcast_constant
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.merges import pair
from tfeptq.preparation.nodes import Node, affine
from tfeptq.preparation.operations.arguments import Handler
from tfeptq.preparation.token_functions import is_input, of_tokens


def _comparison(function: np.ufunc) -> Handler:
    """An input of whole numbers and one number, on either side."""

    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
        left, right = arguments[:2]
        tokens, other = (left, right) if isinstance(left, Node) else (right, left)
        is_whole = all("int" in str(tensor.dtype) for tensor in keras.tree.flatten(operation.input))
        number = None if isinstance(other, Node) else array_of(other)
        if number is None or number.size != 1 or not is_whole or not is_input(tokens):
            raise UnsupportedLayerError(
                operation,
                "compares computed values",
                "compare a token input of whole numbers with one number, or make the result (a "
                "mask) an input of the model",
            )
        value = number.item()
        if tokens is left:
            return of_tokens(operation, tokens, lambda numbers: function(numbers, value))
        return of_tokens(operation, tokens, lambda numbers: function(value, numbers))

    return handler


def _both(kind: type) -> Handler:
    """Two masks, or a mask and an array: zeros and ones, which prepare's proof sees to."""

    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
        left, right = arguments[:2]
        if left is right:
            return left
        if not isinstance(left, Node):
            left, right = right, left
        if not isinstance(right, Node):
            ones = np.asarray(array_of(right) != 0, np.float64)
            right = broadcast_constant(operation.name, ones, left)
        return pair(kind, operation.name, left, right)

    return handler


def _not(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return affine(arguments[0], operation.name, -1.0, 1.0)


HANDLERS: dict[str, Handler] = {
    "Equal": _comparison(np.equal),
    "Greater": _comparison(np.greater),
    "GreaterEqual": _comparison(np.greater_equal),
    "Less": _comparison(np.less),
    "LessEqual": _comparison(np.less_equal),
    "LogicalAnd": _both(keras.layers.Multiply),
    "LogicalNot": _not,
    "LogicalOr": _both(keras.layers.Maximum),
    "NotEqual": _comparison(np.not_equal),
}
