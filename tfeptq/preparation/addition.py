"""What Keras adds where a model adds an array to a tensor.

On TensorFlow `keras.ops.add` takes an array with one axis longer than 1 for a bias, wherever that
axis is, if its length is that of the tensor's first or last one: NumPy would add it elsewhere. A
model was trained with what Keras does.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from tfeptq.preparation.constants import constant
from tfeptq.preparation.nodes import Constant, Node, Shape


def added_constant(shape: Shape, node: Node) -> Node:
    """The constant that stands for `node` as the right operand of a sum, by NumPy's rules.

    Args:
        shape: of the left operand, without the batch.
    """
    value = node.options["value"]
    rank = max(len(shape), value.ndim)
    left = np.zeros((1, *[1] * (rank - len(shape)), *shape), np.float32)
    right = value.reshape(1, *[1] * (rank - value.ndim), *value.shape).astype(np.float32)
    made = np.asarray(keras.ops.convert_to_numpy(keras.ops.add(left, right)), np.float64)[0]
    return constant(node.name, _without_repetition(made, left.shape[1:]))


def added_constants(operands: Sequence[Node]) -> list[Node]:
    """The operands of a sum of any number of tensors, each constant as the sum before it meets."""
    result, shape = list(operands[:1]), operands[0].shape
    for operand in operands[1:]:
        if operand.kind is Constant:
            operand = added_constant(shape, operand)
        result.append(operand)
        shape = np.broadcast_shapes(shape, operand.shape)
    return result


def _without_repetition(value: np.ndarray, shape: Shape) -> np.ndarray:
    """Axes of length 1 where all places are equal, and the tensor has them all."""
    for axis, size in enumerate(shape):
        first = value.take([0], axis)
        if size == value.shape[axis] and np.all(value == first):
            value = first
    return value
