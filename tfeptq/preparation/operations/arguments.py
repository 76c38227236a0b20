"""Reading the arguments of an operation's call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfeptq.preparation.constants import array_of
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import Node

#: Operation, its settings, and its arguments with nodes in the place of tensors; the result is a
#: node, or a list of nodes where the operation has several outputs.
Handler = Callable[[Any, Mapping[str, Any], tuple[Any, ...]], "Node | list[Node]"]


def settings(operation: keras.Operation) -> Mapping[str, Any]:
    """What an operation was constructed with."""
    try:
        return operation.get_config()
    except NotImplementedError:
        # Keras describes no operation that was given an array; they keep what they were given.
        return vars(operation)


def weights(operation: Any, value: Any) -> np.ndarray:
    """An argument that a file stores: it may not depend on the inputs."""
    if isinstance(value, Node):
        raise UnsupportedLayerError(
            operation, "takes its weights from a tensor", "give them as an array"
        )
    return array_of(value)


def only_tensor(operation: Any, value: Any) -> Node:
    """An argument that must be computed by the model."""
    if not isinstance(value, Node):
        raise UnsupportedLayerError(
            operation, "takes a constant in the place of a tensor", "exchange its arguments"
        )
    return value


def axes(axis: Any, rank: int) -> tuple[int, ...]:
    """Axes of a tensor with `rank` dimensions (the batch included), sorted, from 0; None is all."""
    chosen = range(rank) if axis is None else np.atleast_1d(axis)
    return tuple(sorted(int(value) % rank for value in chosen))
