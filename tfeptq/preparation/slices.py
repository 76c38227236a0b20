"""Parts of tensors as Cropping2D primitives, and parts put together."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from tfeptq.preparation.constants import constant
from tfeptq.preparation.nodes import Node, Shape, primitive, reshape


def take(node: Node, name: str, axis: int, start: int, stop: int, step: int = 1) -> Node:
    """Places `start` to `stop` of an axis (the batch not counted), every `step`-th of them."""
    size = node.shape[axis]
    if step > 1 and stop - start > 1:
        return _every(node, name, axis, start, -(-(stop - start) // step), step)
    if (start, stop) == (0, size):
        return node
    frame = ((0, 0), (start, size - stop))
    if len(node.shape) == 3 and axis < 2:
        cropping = frame if axis == 1 else frame[::-1]
        return primitive(keras.layers.Cropping2D, name, [node], cropping=cropping)
    # Cropping2D crops the middle axes only: make this axis one of them.
    before, behind = int(np.prod(node.shape[:axis])), int(np.prod(node.shape[axis + 1 :]))
    image = _as_image(node, name, (before, size, behind))
    cropped = primitive(keras.layers.Cropping2D, name, [image], cropping=frame)
    shape = (*node.shape[:axis], stop - start, *node.shape[axis + 1 :])
    return reshape(cropped, f"{name}_squeeze", shape)


def _as_image(node: Node, name: str, shape: Shape) -> Node:
    """The tensor in three axes; parts of one tensor read one reshape."""
    if shape not in node.images:
        node.images[shape] = reshape(node, f"{name}_expand", shape)
    return node.images[shape]


def joined(name: str, parts: Sequence[Node], axis: int) -> Node:
    """Parts one behind the other; the axis counts from 0 without the batch."""
    if len(parts) == 1:
        return parts[0]
    return primitive(keras.layers.Concatenate, name, parts, axis=axis + 1)


def rearranged(node: Node, name: str, axis: int, places: Sequence[int]) -> Node:
    """Places of an axis in any order, any number of times; neighbours are taken together."""
    ends = [index for index in range(1, len(places)) if places[index] != places[index - 1] + 1]
    runs = [
        places[first:last] for first, last in zip([0, *ends], [*ends, len(places)], strict=True)
    ]
    parts = [
        take(node, f"{name}_{index}", axis, run[0], run[-1] + 1) for index, run in enumerate(runs)
    ]
    return joined(name, parts, axis)


def bordered(name: str, node: Node, axis: int, before: int, behind: int, filling: float) -> Node:
    """A concatenation with constants."""

    def border(width: int) -> list[Node]:
        shape = (*node.shape[:axis], width, *node.shape[axis + 1 :])
        return [constant(f"{name}_constant", np.full(shape, filling))] if width else []

    return joined(name, [*border(before), node, *border(behind)], axis)


def _every(node: Node, name: str, axis: int, start: int, count: int, step: int) -> Node:
    """`count` places, `step` apart: the first ones of rows of `step` places."""
    before, size, behind = node.shape[:axis], node.shape[axis], node.shape[axis + 1 :]
    whole = count if start + count * step <= size else count - 1
    last = start + (count - 1) * step
    end = take(node, f"{name}_end", axis, last, last + 1)
    if not whole:
        return end
    span = take(node, f"{name}_span", axis, start, start + whole * step)
    rows = reshape(span, f"{name}_rows", (*before, whole, step, *behind))
    firsts = take(rows, f"{name}_firsts", axis + 1, 0, 1)
    kept = reshape(firsts, name, (*before, whole, *behind))
    if whole == count:
        return kept
    return joined(f"{name}_all", [kept, end], axis)
