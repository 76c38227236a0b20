"""Images in another size: by whole multiples as Keras's own layer, otherwise to any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfeptq.canonical.resize_layer import Resize
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import Node, primitive

_INTERPOLATIONS = ("nearest", "bilinear")


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
