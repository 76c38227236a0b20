"""Means, sums and extremes over any axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tfeptq.canonical.mean_layer import Mean
from tfeptq.preparation import pooling
from tfeptq.preparation.nodes import Node, affine, primitive, reshape
from tfeptq.preparation.permutes import permute


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


def _is_over_positions(node: Node, axes: Sequence[int]) -> bool:
    rank = len(node.shape)
    return rank in (2, 3) and tuple(axes) == tuple(range(rank - 1))
