"""Images in another size: by whole multiples as Keras's own layer, otherwise to any size.

Where the ratio of their sides is to be kept, what is too much is cut off, or what is missing is
added, before: sizes are fixed, so that it is known how much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.canonical.resize_layer import Resize
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import Node, primitive
from tfeptq.preparation.slices import bordered

_INTERPOLATIONS = ("nearest", "bilinear")


def resized(operation: Any, node: Node, options: Mapping[str, Any]) -> Node:
    """An image (height, width, channels) by the options of `keras.ops.image.resize`."""
    name, size = operation.name, options["size"]
    if options["antialias"]:
        raise UnsupportedLayerError(operation, "antialias=True", "leave it out")
    if len(node.shape) == 3 and options["crop_to_aspect_ratio"]:
        node = cropped(node, name, size)
    elif len(node.shape) == 3 and options["pad_to_aspect_ratio"]:
        node = padded(node, name, size, float(options["fill_value"]))
    return resize(operation, node, name, size, options["interpolation"])


def resize(operation: Any, node: Node, name: str, size: Sequence[int], interpolation: str) -> Node:
    """An image (height, width, channels) of another height and width."""
    if len(node.shape) != 3 or interpolation not in _INTERPOLATIONS:
        raise UnsupportedLayerError(
            operation,
            f"resizes a tensor of shape {(None, *node.shape)} by {interpolation!r}",
            "give images of (height, width, channels), and 'nearest' or 'bilinear'",
        )
    height, width = map(int, size)
    if height % node.shape[0] == 0 and width % node.shape[1] == 0:
        factors = height // node.shape[0], width // node.shape[1]
        return primitive(
            keras.layers.UpSampling2D, name, [node], size=factors, interpolation=interpolation
        )
    return primitive(Resize, name, [node], height=height, width=width, interpolation=interpolation)


def cropped(node: Node, name: str, size: Sequence[int]) -> Node:
    """The middle of an image, in the ratio of the sides of `size`, as `keras.ops.image.resize`."""
    kept = [max(min(length, other), 1) for length, other in _sides(node, size)]
    spare = [length - part for length, part in zip(node.shape[:2], kept, strict=True)]
    frame = [(each // 2, each - each // 2) for each in spare]
    if not np.any(frame):
        return node
    return primitive(keras.layers.Cropping2D, f"{name}_crop", [node], cropping=tuple(frame))


def padded(node: Node, name: str, size: Sequence[int], value: float) -> Node:
    """An image in the middle of a larger one, in the ratio of the sides of `size`.

    Both borders of a side are equal, as those of `keras.ops.image.resize`.
    """
    borders = [max(other - length, 0) // 2 for length, other in _sides(node, size)]
    if not value and any(borders):
        padding = tuple((border, border) for border in borders)
        return primitive(keras.layers.ZeroPadding2D, f"{name}_pad", [node], padding=padding)
    for axis, border in enumerate(borders):
        node = bordered(f"{name}_pad_{axis}", node, axis, border, border, value)
    return node


def _sides(node: Node, size: Sequence[int]) -> list[tuple[int, int]]:
    """Of height and width, each with what it has to be beside the other one; computed as there."""
    height, width = node.shape[:2]
    rows, columns = map(int, size)
    fitting = np.float32(width * rows) / np.float32(columns)
    across = np.float32(height * columns) / np.float32(rows)
    return [(height, int(fitting)), (width, int(across))]
