"""Normalizations by statistics of the tensor itself, from means, products and 1 / sqrt(x)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np

from tfeptq.canonical.functions import rsqrt as rsqrt_function
from tfeptq.preparation import reductions
from tfeptq.preparation.constants import constant
from tfeptq.preparation.nodes import Affine, Node, affine, primitive

_L = keras.layers


def rsqrt(node: Node, name: str) -> Node:
    """1 / sqrt(x); an offset of x is added by an operator, as nothing in front can take it."""
    if node.kind is Affine and np.all(node.options["scale"] == 1.0):
        node = _plus(node.inputs[0], node.options["offset"], f"{name}_offset")
    return primitive(_L.Activation, name, [node], activation=rsqrt_function)


def moments(node: Node, name: str, axes: Sequence[int], *, keepdims: bool) -> tuple[Node, Node]:
    """Mean and variance over axes, counted from 0 without the batch."""
    mean = reductions.mean(node, f"{name}_mean", axes, keepdims=True)
    squares = _squares(_minus(node, mean, f"{name}_centred"), name)
    variance = reductions.mean(squares, f"{name}_variance", axes, keepdims=keepdims)
    if not keepdims:
        mean = reductions.mean(node, f"{name}_mean", axes, keepdims=False)
    return mean, variance


def layer_normalization(
    node: Node, name: str, axes: Sequence[int], epsilon: float, *, by_variance: bool = False
) -> Node:
    """(x - mean) / sqrt(variance + epsilon), or x over that root."""
    mean = reductions.mean(node, f"{name}_mean", axes, keepdims=True)
    centred = _minus(node, mean, f"{name}_centred")
    return _by_root(node if by_variance else centred, centred, name, axes, epsilon)


def rms_normalization(node: Node, name: str, axes: Sequence[int], epsilon: float) -> Node:
    """x / sqrt(mean of x^2 + epsilon)."""
    return _by_root(node, node, name, axes, epsilon)


def unit_normalization(node: Node, name: str, axes: Sequence[int], least: float) -> Node:
    """x / sqrt(max(sum of x^2, least)); the sum is a multiple of the mean."""
    count = math.prod(node.shape[axis] for axis in axes)
    mean = reductions.mean(_squares(node, name), f"{name}_mean", axes, keepdims=True)
    bounded = primitive(_L.Maximum, f"{name}_bounded", [mean, _number(name, mean, least / count)])
    scaled = primitive(_L.Multiply, name, [node, rsqrt(bounded, f"{name}_rsqrt")])
    return affine(scaled, f"{name}_scale", 1.0 / math.sqrt(count), 0.0)


def _by_root(node: Node, spread: Node, name: str, axes: Sequence[int], epsilon: float) -> Node:
    """The node over the root of the mean square of another."""
    mean = reductions.mean(_squares(spread, name), f"{name}_power", axes, keepdims=True)
    root = rsqrt(_plus(mean, np.asarray(epsilon), f"{name}_offset"), f"{name}_rsqrt")
    return primitive(_L.Multiply, name, [node, root])


def _squares(node: Node, name: str) -> Node:
    return primitive(_L.Multiply, f"{name}_squares", [node, node])


def _minus(node: Node, mean: Node, name: str) -> Node:
    return primitive(_L.Subtract, name, [node, mean])


def _plus(node: Node, offset: np.ndarray, name: str) -> Node:
    value = np.broadcast_to(offset, (*[1] * (len(node.shape) - 1), np.size(offset)))
    return primitive(_L.Add, name, [node, constant(f"{name}_constant", value.copy())])


def _number(name: str, node: Node, value: float) -> Node:
    return constant(f"{name}_least", np.full([1] * len(node.shape), value))
