"""Permutations of many axes as such of few, exactly: TensorFlow Lite Micro moves five at most.

Axes that stay together are one axis, axes of size 1 are none. What is still too much becomes swaps
of neighbouring blocks of axes, of which each has three axes besides the batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import keras

from tfeptq.preparation.nodes import Node, primitive, reshape

#: Axes of one permutation, without the batch.
MOST_AXES = 4


def permute(node: Node, name: str, order: Sequence[int]) -> Node:
    """Nodes that permute the axes of `node`.

    Args:
        order: axes of `node`, without the batch, counted from 0.
    """
    order = list(order)
    if len(order) <= MOST_AXES:
        return _primitive(node, name, order)
    shape = tuple(node.shape[axis] for axis in order)
    blocks = _blocks(node.shape, order)
    if len(blocks) < 2:
        return reshape(node, name, shape)
    sizes = {block: math.prod(node.shape[axis] for axis in block) for block in blocks}
    present = sorted(blocks)
    result = node
    if len(blocks) <= MOST_AXES:
        result = reshape(result, f"{name}_blocks", tuple(sizes[block] for block in present))
        result = _primitive(result, f"{name}_moved", [present.index(block) for block in blocks])
        return reshape(result, name, shape)
    for place, block in enumerate(blocks):
        begin = present.index(block)
        if begin == place:
            continue
        end = begin + _run(present[begin:], blocks[place:])
        parts = present[:place], present[place:begin], present[begin:end], present[end:]
        cut = tuple(math.prod(sizes[each] for each in part) for part in parts)
        result = reshape(result, f"{name}_{place}_blocks", cut)
        result = _primitive(result, f"{name}_{place}_moved", [0, 2, 1, 3])
        present = [*parts[0], *parts[2], *parts[1], *parts[3]]
    return reshape(result, name, shape)


def _primitive(node: Node, name: str, order: Sequence[int]) -> Node:
    if list(order) == sorted(order):
        return node
    return primitive(keras.layers.Permute, name, [node], dims=tuple(axis + 1 for axis in order))


def _blocks(shape: Sequence[int], order: Sequence[int]) -> list[tuple[int, ...]]:
    """Axes that stay together, in the order of the result; axes of size 1 are left out."""
    large = [axis for axis in range(len(shape)) if shape[axis] != 1]
    follows = dict(itertools.pairwise(large))
    blocks: list[tuple[int, ...]] = []
    for axis in (axis for axis in order if shape[axis] != 1):
        if blocks and follows.get(blocks[-1][-1]) == axis:
            blocks[-1] = (*blocks[-1], axis)
        else:
            blocks.append((axis,))
    return blocks


def _run(present: Sequence[tuple[int, ...]], wanted: Sequence[tuple[int, ...]]) -> int:
    """How many blocks both begin with."""
    return next(
        (i for i, (a, b) in enumerate(zip(present, wanted, strict=False)) if a != b),
        min(len(present), len(wanted)),
    )
