"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import ops

from tfeptq.preparation.tensorflow_graphs.operators.handler import Handler, integers
from tfeptq.preparation.tensorflow_graphs.scope import Scope
from tfeptq.preparation.tensorflow_graphs.values import UnreadableGraphError, symbol


def _over(function: Callable[..., Any]) -> Handler:
    def handler(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
        tensor = symbol(read[0])
        axes = [axis % len(tensor.shape) for axis in integers(operation, read[1])]
        if 0 in axes:
            raise UnreadableGraphError(f"{operation.type} ({operation.name!r}) is over the samples")
        if not axes:
            return tensor
        return function(tensor, axis=tuple(axes), keepdims=operation.get_attr("keep_dims"))

    return handler


def _place_of_maximum(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    tensor, (axis,) = symbol(read[0]), integers(operation, read[1])
    if axis % len(tensor.shape) == 0:
        raise UnreadableGraphError(f"ArgMax ({operation.name!r}) is over the samples")
    return ops.argmax(tensor, axis=axis)


HANDLERS: dict[str, Handler] = {
    "ArgMax": _place_of_maximum,
    "Max": _over(ops.max),
    "Mean": _over(ops.mean),
    "Min": _over(ops.min),
    "Prod": _over(ops.prod),
    "Sum": _over(ops.sum),
}
