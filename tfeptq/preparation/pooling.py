"""Poolings of images and sequences as two-dimensional poolings."""

from __future__ import annotations

from typing import Any

import keras

from tfeptq.preparation.nodes import Node, as_image, as_sequence, in_plane, primitive, reshape


def pool(kind: type, name: str, node: Node, *, size: Any, strides: Any, padding: str) -> Node:
    """MaxPooling2D or AveragePooling2D; `strides` None means `size`."""
    image = as_image(node, name)
    window = in_plane(size, node)
    pooled = primitive(
        kind,
        name,
        [image],
        pool_size=window,
        strides=window if strides is None else in_plane(strides, node),
        padding=padding,
    )
    covers_all = window == image.shape[:2] and pooled.shape[:2] == (1, 1)
    if kind is keras.layers.AveragePooling2D and covers_all:
        # The mean has an output scale of its own, which the pooling kernel has not.
        pooled = primitive(keras.layers.GlobalAveragePooling2D, name, [image], keepdims=True)
    return as_sequence(pooled, node, name)


def global_average(name: str, node: Node, *, keepdims: bool) -> Node:
    """The mean over all positions."""
    image = as_image(node, name)
    keeps = keepdims and image is node
    pooled = primitive(keras.layers.GlobalAveragePooling2D, name, [image], keepdims=keeps)
    return reshape(pooled, f"{name}_keep", _global_shape(node, keepdims))


def global_max(name: str, node: Node, *, keepdims: bool) -> Node:
    """The maximum over all positions, by a pooling window of the image's size."""
    image = as_image(node, name)
    pooled = primitive(keras.layers.MaxPooling2D, name, [image], pool_size=image.shape[:2])
    return reshape(pooled, f"{name}_flat", _global_shape(node, keepdims))


def _global_shape(node: Node, keepdims: bool) -> tuple[int, ...]:
    positions = len(node.shape) - 1
    return ((1,) * positions if keepdims else ()) + node.shape[-1:]
