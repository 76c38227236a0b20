"""Operators of constants, computed by TensorFlow."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf


def fold(operation: tf.Operation, values: Sequence[Any]) -> list[np.ndarray]:
    """The outputs of an operator that reads nothing but constants."""
    function = getattr(tf.raw_ops, operation.type)
    waiting = iter(values)
    arguments: dict[str, Any] = {}
    taken = list(inspect.signature(function).parameters)
    for place, argument in enumerate(operation.op_def.input_arg):
        # Python calls a few of them otherwise, in the same places.
        name = argument.name if argument.name in taken else taken[place]
        if argument.number_attr:
            count = operation.get_attr(argument.number_attr)
            arguments[name] = [next(waiting) for _ in range(count)]
        else:
            arguments[name] = next(waiting)
    for attribute in operation.op_def.attr:
        if attribute.name in taken:
            arguments[attribute.name] = operation.get_attr(attribute.name)
    outputs = function(**arguments)
    return [np.asarray(output) for output in tf.nest.flatten(outputs)]
