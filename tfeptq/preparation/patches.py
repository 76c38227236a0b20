"""Patches of an image as its channels: vision transformers cut images up with them."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tfeptq.preparation.nodes import Node, primitive, reshape
from tfeptq.preparation.permutes import permute
from tfeptq.preparation.slices import joined, take
from tflite_export.operators.windows import padding_before_after

Pair = Sequence[int]


def extract_patches(
    node: Node, name: str, *, size: Pair, strides: Pair, dilation_rate: Pair, padding: str
) -> Node:
    """Values that a convolution's window sees at each place, (H, W, C) to (H', W', h * w * C).

    Args:
        size: of the window; this and the next two along height and width.
        padding: "same" adds zeros.
    """
    spans = [(length - 1) * rate + 1 for length, rate in zip(size, dilation_rate, strict=True)]
    frame = tuple(
        padding_before_after(node.shape[axis], window=span, stride=strides[axis], same=True)
        for axis, span in enumerate(spans)
    )
    if padding == "same" and any(map(any, frame)):
        node = primitive(keras.layers.ZeroPadding2D, f"{name}_pad", [node], padding=frame)
    # Along the width first: channels of a row of the window come to lie together.
    for axis, along in ((1, "width"), (0, "height")):
        places = (node.shape[axis] - spans[axis]) // strides[axis] + 1
        if spans[axis] == size[axis] == strides[axis]:
            node = _tiles(node, f"{name}_{along}", axis, places, size[axis])
        else:
            starts = range(0, spans[axis], dilation_rate[axis])
            node = _taps(node, f"{name}_{along}", axis, places, starts, strides[axis])
    return node


def _tiles(node: Node, name: str, axis: int, places: int, size: int) -> Node:
    """Windows that lie side by side: no value is copied."""
    node = take(node, f"{name}_whole", axis, 0, places * size)
    height, width, channels = node.shape
    if axis == 1:
        return reshape(node, name, (height, places, size * channels))
    rows = reshape(node, f"{name}_rows", (places, size, width, channels))
    moved = permute(rows, f"{name}_moved", (0, 2, 1, 3))
    return reshape(moved, name, (places, width, size * channels))


def _taps(
    node: Node, name: str, axis: int, places: int, starts: Sequence[int], stride: int
) -> Node:
    """All first values of the windows, all second ones, and so on."""
    span = (places - 1) * stride + 1
    parts = [take(node, f"{name}_{start}", axis, start, start + span, stride) for start in starts]
    return joined(name, parts, 2)
