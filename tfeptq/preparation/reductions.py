"""Means, sums and extremes over any axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras

from tfeptq.canonical.argmax_layer import ArgMax
from tfeptq.canonical.mean_layer import Mean
from tfeptq.preparation import pooling
from tfeptq.preparation.nodes import Node, affine, primitive, reshape
from tfeptq.preparation.permutes import permute
from tfeptq.preparation.slices import take
from tfeptq.preparation.tables import tabulated

_L = keras.layers


def mean(node: Node, name: str, axes: Sequence[int], *, keepdims: bool) -> Node:
    """The mean over axes that are counted from 0 without the batch."""
    if _is_over_positions(node, axes):
        return pooling.global_average(name, node, keepdims=keepdims)
    return primitive(Mean, name, [node], axes=tuple(axis + 1 for axis in axes), keepdims=keepdims)


def total(node: Node, name: str, axes: Sequence[int], *, keepdims: bool) -> Node:
    """The sum, as a multiple of the mean."""
    count = math.prod(node.shape[axis] for axis in axes)
    reduced = mean(node, f"{name}_mean", axes, keepdims=keepdims)
    return affine(reduced, name, float(count), 0.0)


def maximum(node: Node, name: str, axes: Sequence[int], *, keepdims: bool) -> Node:
    """The maximum over all positions of an image, into which other axes are brought."""
    if _is_over_positions(node, axes):
        return pooling.global_max(name, node, keepdims=keepdims)
    rank = len(node.shape)
    kept = [axis for axis in range(rank) if axis not in axes]
    moved = permute(node, f"{name}_order", [*axes, *kept])
    positions = math.prod(node.shape[axis] for axis in axes)
    channels = math.prod(node.shape[axis] for axis in kept)
    image = reshape(moved, f"{name}_image", (positions, 1, channels))
    shape = tuple(
        1 if axis in axes else node.shape[axis] for axis in range(rank) if keepdims or axis in kept
    )
    return reshape(pooling.global_max(name, image, keepdims=False), f"{name}_shape", shape)


def minimum(node: Node, name: str, axes: Sequence[int], *, keepdims: bool) -> Node:
    """The negative of the maximum of the negative."""
    negative = affine(node, f"{name}_negative", -1.0, 0.0)
    largest = maximum(negative, f"{name}_max", axes, keepdims=keepdims)
    return affine(largest, name, -1.0, 0.0)


def product(node: Node, name: str, axes: Sequence[int], *, keepdims: bool) -> Node:
    """The product, by halves that are multiplied until one place is left."""
    shape = tuple(
        1 if axis in axes else size
        for axis, size in enumerate(node.shape)
        if keepdims or axis not in axes
    )
    for axis in axes:
        node = _multiplied(node, f"{name}_{axis}", axis)
    return reshape(node, name, shape)


def _multiplied(node: Node, name: str, axis: int) -> Node:
    size = node.shape[axis]
    if size == 1:
        return node
    half = size // 2
    first = take(node, f"{name}_first", axis, 0, half)
    second = take(node, f"{name}_second", axis, half, 2 * half)
    halves = primitive(_L.Multiply, f"{name}_{size}", [first, second])
    made = _multiplied(halves, name, axis)
    if size == 2 * half:
        return made
    rest = take(node, f"{name}_rest", axis, size - 1, size)
    return primitive(_L.Multiply, f"{name}_{size}_odd", [made, rest])


def log_sum_exp(node: Node, name: str, axes: Sequence[int], *, keepdims: bool) -> Node:
    """max + log(sum of exp(x - max)), whose terms are from 0 to 1."""
    largest, shifted = _shifted(node, name, axes)
    result = primitive(_L.Add, name, [largest, _log_of_sum(shifted, name, axes)])
    kept = [size for axis, size in enumerate(node.shape) if axis not in axes]
    return result if keepdims else reshape(result, f"{name}_shape", tuple(kept))


def log_softmax(node: Node, name: str, axes: Sequence[int]) -> Node:
    """x - max - log(sum of exp(x - max))."""
    _, shifted = _shifted(node, name, axes)
    return primitive(_L.Subtract, name, [shifted, _log_of_sum(shifted, name, axes)])


def _shifted(node: Node, name: str, axes: Sequence[int]) -> tuple[Node, Node]:
    largest = maximum(node, f"{name}_max", axes, keepdims=True)
    return largest, primitive(_L.Subtract, f"{name}_shifted", [node, largest])


def _log_of_sum(shifted: Node, name: str, axes: Sequence[int]) -> Node:
    terms = primitive(_L.Activation, f"{name}_exp", [shifted], activation="exponential")
    return tabulated(total(terms, f"{name}_sum", axes, keepdims=True), f"{name}_log", "log")


def euclidean(node: Node, name: str, axes: Sequence[int], *, keepdims: bool) -> Node:
    squares = primitive(_L.Multiply, f"{name}_squares", [node, node])
    return tabulated(total(squares, f"{name}_sum", axes, keepdims=keepdims), name, "sqrt")


def sum_of_magnitudes(node: Node, name: str, axes: Sequence[int], *, keepdims: bool) -> Node:
    return total(magnitude(node, f"{name}_abs"), name, axes, keepdims=keepdims)


def largest_magnitude(node: Node, name: str, axes: Sequence[int], *, keepdims: bool) -> Node:
    return maximum(magnitude(node, f"{name}_abs"), name, axes, keepdims=keepdims)


def magnitude(node: Node, name: str) -> Node:
    """The larger one of a tensor and its negative."""
    negative = affine(node, f"{name}_negative", -1.0, 0.0)
    return primitive(_L.Maximum, name, [node, negative])


def place_of_maximum(node: Node, name: str, axis: int, *, keepdims: bool) -> Node:
    """The index of the largest value along an axis, which is brought to the end."""
    rank = len(node.shape)
    kept = [index for index in range(rank) if index != axis]
    moved = node if axis == rank - 1 else permute(node, f"{name}_order", [*kept, axis])
    place = primitive(ArgMax, name, [moved])
    if not keepdims:
        return place
    shape = tuple(1 if index == axis else size for index, size in enumerate(node.shape))
    return reshape(place, f"{name}_shape", shape)


def _is_over_positions(node: Node, axes: Sequence[int]) -> bool:
    rank = len(node.shape)
    return rank in (2, 3) and tuple(axes) == tuple(range(rank - 1))
