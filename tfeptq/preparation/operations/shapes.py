"""Operations that move data and leave the values as they are.

Those that only name axes (indices, transpositions, stacks) are in `axes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.preparation.constants import array_of, constant
from tfeptq.preparation.errors import UnsupportedLayerError, check_data_format
from tfeptq.preparation.lookups import look_up
from tfeptq.preparation.nodes import Node, primitive, reshape
from tfeptq.preparation.operations.arguments import Handler, weights
from tfeptq.preparation.patches import extract_patches
from tfeptq.preparation.resizing import resized
from tfeptq.preparation.slices import bordered, joined, rearranged, take


def _reshape(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node, target = arguments[0], list(config["newshape"])
    keeps_batch = operation.output.shape[0] == operation.input.shape[0]
    shape = _filled(target[1:], int(np.prod(node.shape)))
    if not keeps_batch or not shape or int(np.prod(shape)) != int(np.prod(node.shape)):
        raise UnsupportedLayerError(
            operation, f"newshape={config['newshape']} moves the batch", "keep the first axis"
        )
    return reshape(node, operation.name, shape)


def _filled(target: Sequence[int], elements: int) -> tuple[int, ...]:
    known = int(np.prod([size for size in target if size != -1]))
    return tuple(elements // known if size == -1 else int(size) for size in target)


def _pad(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node = arguments[0]
    widths = np.broadcast_to(config["pad_width"], (len(node.shape) + 1, 2)).tolist()
    filling = 0.0 if arguments[1] is None else float(array_of(arguments[1]))
    if widths[0] != [0, 0]:
        raise UnsupportedLayerError(operation, "pads the batch", "pad axes of a sample")
    if config["mode"] in _MIRRORS:
        for axis, (before, behind) in enumerate(widths[1:]):
            places = np.pad(np.arange(node.shape[axis]), (before, behind), config["mode"])
            node = rearranged(node, f"{operation.name}_{axis}", axis, places.tolist())
        return node
    if config["mode"] != "constant":
        raise UnsupportedLayerError(
            operation, f"pads by {config['mode']!r}", f"use 'constant' or one of {_MIRRORS}"
        )
    if len(node.shape) == 3 and not filling and widths[3] == [0, 0]:
        padding = tuple(tuple(pair) for pair in widths[1:3])
        return primitive(keras.layers.ZeroPadding2D, operation.name, [node], padding=padding)
    for axis, (before, behind) in enumerate(widths[1:]):
        node = bordered(f"{operation.name}_{axis}", node, axis, before, behind, filling)
    return node


#: Modes of padding that repeat places of the tensor.
_MIRRORS = ("edge", "reflect", "symmetric", "wrap")


def _resize(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    check_data_format(operation, config["data_format"])
    return resized(operation, arguments[0], config)


def _extract_patches(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    (node,) = arguments
    check_data_format(operation, config["data_format"])
    if len(node.shape) != 3 or len(config["size"]) != 2:
        raise UnsupportedLayerError(
            operation,
            f"cuts patches of {config['size']} out of {node.shape}",
            "cut them out of images, (height, width, channels)",
        )
    size, strides, dilation_rate = (
        tuple(int(length) for length in np.broadcast_to(config[key], 2))
        for key in ("size", "strides", "dilation_rate")
    )
    return extract_patches(
        node,
        operation.name,
        size=size,
        strides=strides,
        dilation_rate=dilation_rate,
        padding=config["padding"].lower(),
    )


def _take(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    """Rows of a constant table, or places of a tensor by constant numbers."""
    source, numbers = arguments[:2]
    if isinstance(source, Node):
        return _places(operation, source, numbers, config["axis"])
    table = weights(operation, source)
    if table.ndim != 2 or config["axis"] not in (0, -2) or not isinstance(numbers, Node):
        raise UnsupportedLayerError(
            operation, f"takes along axis {config['axis']}", "take rows of a matrix"
        )
    return look_up(operation, numbers, table, operation.name)


def _places(operation: Any, node: Node, numbers: Any, axis: Any) -> Node:
    places = weights(operation, numbers).astype(int)
    rank = len(node.shape) + 1
    if axis is None or axis % rank == 0 or places.ndim > 1:
        raise UnsupportedLayerError(
            operation, f"takes along axis {axis}", "take places of one axis of a sample"
        )
    inner = axis % rank - 1
    parts = [
        take(node, f"{operation.name}_{index}", inner, int(place), int(place) + 1)
        for index, place in enumerate(np.atleast_1d(places) % node.shape[inner])
    ]
    if not places.ndim:
        return reshape(parts[0], operation.name, (*node.shape[:inner], *node.shape[inner + 1 :]))
    return joined(operation.name, parts, inner)


def _filled_like(number: float) -> Handler:
    """An array of one number in the shape of a tensor."""
    return lambda operation, config, arguments: constant(
        operation.name, np.full(arguments[0].shape, number)
    )


HANDLERS: dict[str, Handler] = {
    "OnesLike": _filled_like(1.0),
    "ZerosLike": _filled_like(0.0),
    "ExtractPatches": _extract_patches,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Take": _take,
}
