"""Merges of tensors and constants as merges of two tensors, or as scale * x + offset."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.preparation.activations import NO_BOUND, at_least, at_most
from tfeptq.preparation.addition import added_constants
from tfeptq.preparation.constants import broadcast_constant, constant
from tfeptq.preparation.nodes import Constant, Node, Shape, affine, primitive, reshape

_L = keras.layers
_COMMUTATIVE: dict[type, Callable[..., np.ndarray]] = {
    _L.Add: np.add,
    _L.Multiply: np.multiply,
    _L.Maximum: np.maximum,
    _L.Minimum: np.minimum,
}


def merge(kind: type, name: str, operands: Sequence[Node]) -> Node:
    """Any number of tensors and constants; those of lower rank lack axes behind the batch."""
    if kind is _L.Add:
        operands = added_constants(operands)
    tensors = [node for node in operands if node.kind is not Constant]
    constants = [node for node in operands if node.kind is Constant]
    if kind in _COMMUTATIVE and constants and tensors:
        operands = [*tensors, _combined(kind, constants)]
    return _chain(kind, name, operands)


def pair(kind: type, name: str, left: Node, right: Node) -> Node:
    """Two tensors, or a tensor and a constant on either side."""
    if left.kind is not Constant and right.kind is Constant:
        return _with_constant(kind, name, left, right, is_first=False)
    if left.kind is Constant and right.kind is not Constant:
        return _with_constant(kind, name, right, left, is_first=True)
    return primitive(kind, name, [left, right])


def scale_and_shift(node: Node, name: str, scale: Any, offset: Any) -> Node:
    """scale * node + offset, with constants that broadcast as NumPy's do.

    Raises:
        ConstantError: a constant varies with the sample.
    """
    factor = broadcast_constant(name, scale, node)
    scaled = pair(_L.Multiply, f"{name}_scale", node, factor)
    return pair(_L.Add, name, scaled, broadcast_constant(name, offset, scaled))


def _chain(kind: type, name: str, operands: Sequence[Node]) -> Node:
    made, *others = operands
    for count, operand in enumerate(others, start=2):
        made = pair(kind, name if count == len(operands) else f"{name}_{count}", made, operand)
    return made


def _combined(kind: type, constants: Sequence[Node]) -> Node:
    rank = max(len(node.shape) for node in constants)
    values = [_ranked(node.options["value"], rank) for node in constants]
    return constant(constants[0].name, functools.reduce(_COMMUTATIVE[kind], values))


def _ranked(value: np.ndarray, rank: int) -> np.ndarray:
    return value.reshape(*[1] * (rank - value.ndim), *value.shape)


def _with_constant(kind: type, name: str, node: Node, operand: Node, *, is_first: bool) -> Node:
    """A fold where the constant is a number or one value a channel; otherwise an operand."""
    value = _ranked(operand.options["value"], max(len(node.shape), len(operand.shape)))
    if kind in (_L.Maximum, _L.Minimum):
        # Bounds that are infinite, or as good as that.
        value = np.clip(value, -NO_BOUND, NO_BOUND)
    ranked = constant(operand.name, value)
    merged = primitive(kind, name, [ranked, node] if is_first else [node, ranked])
    if kind is _L.Multiply and not np.any(value):
        return constant(name, np.zeros(merged.shape))
    simple = _by_channel(value)
    if simple is not None and merged.shape == node.shape:
        return _folded(kind, name, node, simple, is_first=is_first) or merged
    if merged.shape == node.shape:
        return _before_split(kind, name, node, value, is_first=is_first) or merged
    return merged


def _before_split(
    kind: type, name: str, node: Node, value: np.ndarray, *, is_first: bool
) -> Node | None:
    """A constant over the axes that a reshape makes of the channels: one value a channel before it.

    So the biases of heads become those of the layer that makes all heads at once.
    """
    if node.kind is not _L.Reshape:
        return None
    (source,) = node.inputs
    axis = _axis_of_channels(source.shape, node.shape)
    if axis is None or value.shape[:axis] != (1,) * axis:
        return None
    vector = np.broadcast_to(value, (*(1,) * axis, *node.shape[axis:])).reshape(-1)
    folded = _folded(kind, name, source, vector, is_first=is_first)
    return None if folded is None else reshape(folded, f"{name}_split", node.shape)


def _axis_of_channels(shape: Shape, split: Shape) -> int | None:
    """The first of the axes that a reshape makes of the last axis, if it makes some."""
    for axis in range(len(split)):
        if math.prod(split[axis:]) == shape[-1] and math.prod(split[:axis]) == math.prod(
            shape[:-1]
        ):
            return axis
    return None


def _by_channel(value: np.ndarray) -> np.ndarray | None:
    """The number, or the vector over the last axis, that an array repeats; None if it does not."""
    if np.all(value == value.flat[0]):
        return np.asarray(value.flat[0])
    vector = value.reshape(-1, value.shape[-1])
    return vector[0] if np.all(vector == vector[0]) else None


def _folded(kind: type, name: str, node: Node, value: np.ndarray, *, is_first: bool) -> Node | None:
    if kind is _L.Add:
        return affine(node, name, 1.0, value)
    if kind is _L.Subtract:
        return affine(node, name, -1.0, value) if is_first else affine(node, name, 1.0, -value)
    if kind is _L.Multiply:
        return affine(node, name, value, 0.0)
    if value.ndim:
        return None
    if kind is _L.Maximum:
        return at_least(node, name, float(value))
    return at_most(node, name, float(value))
