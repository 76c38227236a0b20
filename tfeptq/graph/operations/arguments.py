"""Reading the arguments of an operation's call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfeptq.graph.errors import UnsupportedLayerError
from tfeptq.graph.nodes import Node

#: Operation, its settings, and its arguments with nodes in the place of tensors; the result is a
#: node, or a list of nodes where the operation has several outputs.
Handler = Callable[[Any, Mapping[str, Any], tuple[Any, ...]], "Node | list[Node]"]


def constant(value: Any) -> np.ndarray:
    """A number, array, tensor or variable in float64."""
    return np.asarray(keras.ops.convert_to_numpy(value), np.float64)


def weights(operation: Any, value: Any) -> np.ndarray:
    """An argument that a file stores: it may not depend on the inputs."""
    if isinstance(value, Node):
        raise UnsupportedLayerError(
            operation, "takes its weights from a tensor", "give them as an array"
        )
    return constant(value)


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
