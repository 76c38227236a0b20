"""Products of matrices, and look-ups in them."""

from __future__ import annotations

from string import ascii_lowercase
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfeptq.preparation.tensorflow_graphs.operators.handler import Handler, constant, integers
from tfeptq.preparation.tensorflow_graphs.scope import Scope
from tfeptq.preparation.tensorflow_graphs.values import (
    Rows,
    UnreadableGraphError,
    is_tensor,
    per_sample,
    symbol,
)


def _matmul(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    if operation.get_attr("transpose_a") or not is_tensor(read[0]):
        raise UnreadableGraphError(f"MatMul ({operation.name!r}) multiplies across samples")
    kernel = constant(operation, read[1])
    kernel = kernel.T if operation.get_attr("transpose_b") else kernel

    def dense(tensor: Any) -> Any:
        def make(name: str) -> keras.Layer:
            return keras.layers.Dense(kernel.shape[1], use_bias=False, name=name)

        return scope.call(operation, make, tensor, [kernel])

    return read[0].of(dense) if isinstance(read[0], Rows) else dense(read[0])


def _batch_matmul(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    sides = [symbol(per_sample(value)) for value in read]
    flips = operation.get_attr("adj_x"), operation.get_attr("adj_y")
    turned = [
        np.swapaxes(side, -1, -2) if isinstance(side, np.ndarray) else ops.swapaxes(side, -1, -2)
        for side in sides
    ]
    left, right = (
        turn if flip else side for side, turn, flip in zip(sides, turned, flips, strict=True)
    )
    return ops.matmul(left, right)


def _einsum(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    equation = operation.get_attr("equation").decode()
    # Symbolic tensors of Keras take small letters only.
    letters = dict.fromkeys(letter for letter in equation if letter.isalpha())
    equation = equation.translate(str.maketrans(dict(zip(letters, ascii_lowercase, strict=False))))
    return ops.einsum(equation, *(symbol(per_sample(value)) for value in read))


def _gather(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    """Rows of a constant (an embedding), or constant places of a tensor."""
    (axis,) = integers(operation, read[2]) if len(read) > 2 else (0,)
    if operation.type == "GatherV2" and operation.get_attr("batch_dims"):
        raise UnreadableGraphError(f"GatherV2 ({operation.name!r}) has batch_dims")
    if is_tensor(read[0]):
        return ops.take(symbol(read[0]), constant(operation, read[1]), axis=axis)
    table = constant(operation, read[0])
    if axis != 0 or table.ndim != 2:
        raise UnreadableGraphError(f"{operation.name!r} looks up in an array {table.shape}")

    def make(name: str) -> keras.Layer:
        return keras.layers.Embedding(*table.shape, name=name)

    return scope.call(operation, make, symbol(read[1]), [table])


def _one_hot(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    classes, on, off = (constant(operation, value).item() for value in read[1:])
    if (on, off) != (1.0, 0.0):
        raise UnreadableGraphError(f"OneHot ({operation.name!r}) gives {on} and {off}")
    ones, axis = ops.one_hot(symbol(read[0]), int(classes)), operation.get_attr("axis")
    return ones if axis == -1 else ops.moveaxis(ones, -1, axis)


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _batch_matmul),
    "Einsum": _einsum,
    "Gather": _gather,
    "GatherV2": _gather,
    "MatMul": _matmul,
    "OneHot": _one_hot,
    "ResourceGather": _gather,
}
