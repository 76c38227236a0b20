"""Means, sums and extremes over any axes as poolings over all positions of an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tfeptq.preparation import pooling
from tfeptq.preparation.nodes import Node, affine, reshape
from tfeptq.preparation.permutes import permute

#: Name, node, keepdims -> the reduced node; over all axes but the last.
Pool = Callable[..., Node]


def mean(node: Node, name: str, axes: Sequence[int], *, keepdims: bool) -> Node:
    """The mean over axes that are counted from 0 without the batch."""
    return _reduced(pooling.global_average, node, name, axes, keepdims=keepdims)


def total(node: Node, name: str, axes: Sequence[int], *, keepdims: bool) -> Node:
    """The sum, as a multiple of the mean."""
    count = math.prod(node.shape[axis] for axis in axes)
    reduced = mean(node, f"{name}_mean", axes, keepdims=keepdims)
    return affine(reduced, name, float(count), 0.0)


def maximum(node: Node, name: str, axes: Sequence[int], *, keepdims: bool) -> Node:
    return _reduced(pooling.global_max, node, name, axes, keepdims=keepdims)


def minimum(node: Node, name: str, axes: Sequence[int], *, keepdims: bool) -> Node:
    """The negative of the maximum of the negative."""
    negative = affine(node, f"{name}_negative", -1.0, 0.0)
    largest = maximum(negative, f"{name}_max", axes, keepdims=keepdims)
    return affine(largest, name, -1.0, 0.0)


def _reduced(pool: Pool, node: Node, name: str, axes: Sequence[int], *, keepdims: bool) -> Node:
    rank = len(node.shape)
    if rank in (2, 3) and tuple(axes) == tuple(range(rank - 1)):
        return pool(name, node, keepdims=keepdims)
    kept = [axis for axis in range(rank) if axis not in axes]
    moved = permute(node, f"{name}_order", [*axes, *kept])
    positions = math.prod(node.shape[axis] for axis in axes)
    channels = math.prod(node.shape[axis] for axis in kept)
    image = reshape(moved, f"{name}_image", (positions, 1, channels))
    shape = tuple(
        1 if axis in axes else node.shape[axis] for axis in range(rank) if keepdims or axis in kept
    )
    return reshape(pool(name, image, keepdims=False), f"{name}_shape", shape)
