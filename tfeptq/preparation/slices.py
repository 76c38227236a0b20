"""Parts of tensors as Cropping2D primitives."""

from __future__ import annotations

import keras
import numpy as np

from tfeptq.preparation.nodes import Node, primitive, reshape


def take(node: Node, name: str, axis: int, start: int, stop: int) -> Node:
    """Places `start` to `stop` of an axis (the batch not counted)."""
    size = node.shape[axis]
    if (start, stop) == (0, size):
        return node
    frame = ((0, 0), (start, size - stop))
    if len(node.shape) == 3 and axis < 2:
        cropping = frame if axis == 1 else frame[::-1]
        return primitive(keras.layers.Cropping2D, name, [node], cropping=cropping)
    # Cropping2D crops the middle axes only: make this axis one of them.
    before, behind = int(np.prod(node.shape[:axis])), int(np.prod(node.shape[axis + 1 :]))
    image = reshape(node, f"{name}_expand", (before, size, behind))
    cropped = primitive(keras.layers.Cropping2D, name, [image], cropping=frame)
    shape = (*node.shape[:axis], stop - start, *node.shape[axis + 1 :])
    return reshape(cropped, f"{name}_squeeze", shape)
