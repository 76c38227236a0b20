"""Operations that repeat, stack or reverse parts of tensors, as concatenations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.lookups import one_hot
from tfeptq.preparation.merges import scale_and_shift
from tfeptq.preparation.nodes import Node, primitive, reshape
from tfeptq.preparation.operations.arguments import Handler, only_tensor
from tfeptq.preparation.operations.reductions import inner_axes
from tfeptq.preparation.permutes import permute
from tfeptq.preparation.slices import joined, rearranged, take


def _tile(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node = arguments[0]
    repeats = [int(count) for count in np.atleast_1d(config["repeats"])]
    if len(repeats) > len(node.shape) and repeats[0] != 1:
        raise UnsupportedLayerError(operation, "repeats the batch", "begin repeats with 1")
    behind = repeats[max(len(repeats) - len(node.shape), 0) :]
    for axis, count in enumerate(behind, len(node.shape) - len(behind)):
        node = joined(f"{operation.name}_{axis}", [node] * count, axis)
    return node


def _repeat(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node = arguments[0]
    counts = np.atleast_1d(config["repeats"])
    if config["axis"] is None or len(counts) > 1:
        raise UnsupportedLayerError(
            operation, "repeats places unequally or the batch", "give one number and an axis"
        )
    (axis,) = inner_axes(operation, config["axis"], node)
    return repeated(node, operation.name, axis, int(counts[0]))


def repeated(node: Node, name: str, axis: int, count: int) -> Node:
    """Each place of an axis `count` times; the axis counts from 0 without the batch."""
    if count == 1:
        return node
    shape = node.shape
    expanded = reshape(node, f"{name}_expand", (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    each = joined(f"{name}_each", [expanded] * count, axis + 1)
    return reshape(each, name, (*shape[:axis], shape[axis] * count, *shape[axis + 1 :]))


def _broadcast_to(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node, shape = arguments[0], tuple(config["shape"])[1:]
    if len(shape) != len(node.shape) or config["shape"][0] not in (None, -1, 1):
        raise UnsupportedLayerError(
            operation, f"gives the shape {config['shape']}", "keep the batch and the axes"
        )
    for axis, (old, new) in enumerate(zip(node.shape, shape, strict=True)):
        if old != new:
            node = joined(f"{operation.name}_{axis}", [node] * int(new), axis)
    return node


def _flip(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node = arguments[0]
    for axis in inner_axes(operation, config["axis"], node):
        node = _reversed(node, f"{operation.name}_{axis}", axis)
    return node


def _reversed(node: Node, name: str, axis: int) -> Node:
    return rearranged(node, name, axis, range(node.shape[axis])[::-1])


def _roll(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node = arguments[0]
    if config["axis"] is None:
        raise UnsupportedLayerError(operation, "rolls through the batch", "name the axes")
    axes = np.atleast_1d(config["axis"])
    shifts = np.broadcast_to(config["shift"], axes.shape)
    for index, (each, shift) in enumerate(zip(axes, shifts, strict=True)):
        (axis,) = inner_axes(operation, int(each), node)
        places = np.roll(np.arange(node.shape[axis]), int(shift)).tolist()
        node = rearranged(node, f"{operation.name}_{index}", axis, places)
    return node


def _rot90(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    """A quarter turn of a plane: axes that change places, and one is reversed."""
    node, name, turns = arguments[0], operation.name, config["k"] % 4
    if turns > 1:
        # Keras turns once whatever k is, under TensorFlow.
        raise UnsupportedLayerError(
            operation, f"turns {turns} times", "use k=1, or flip and transpose"
        )
    first, second = (inner_axes(operation, int(axis), node)[0] for axis in config["axes"])
    order = list(range(len(node.shape)))
    order[first], order[second] = second, first
    turned = permute(_reversed(node, f"{name}_reversed", second), name, order)
    return turned if turns else node


def _diff(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    """Differences of neighbours."""
    node = arguments[0]
    (axis,) = inner_axes(operation, config["axis"], node)
    for index in range(config["n"]):
        name, size = f"{operation.name}_{index}", node.shape[axis]
        if size < 2:
            raise UnsupportedLayerError(operation, "leaves no places", "take a smaller n")
        later = take(node, f"{name}_later", axis, 1, size)
        earlier = take(node, f"{name}_earlier", axis, 0, size - 1)
        node = primitive(keras.layers.Subtract, name, [later, earlier])
    return node


def _triangle(keep: Callable[..., np.ndarray]) -> Handler:
    """A matrix with zeros on one side of a diagonal."""

    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
        node = arguments[0]
        if len(node.shape) < 2:
            raise UnsupportedLayerError(operation, "reaches into the batch", "give it matrices")
        kept = keep(np.ones(node.shape[-2:]), config["k"])
        return scale_and_shift(node, operation.name, kept, 0.0)

    return handler


def _parts(name: str, node: Node, axis: int) -> list[Node]:
    """The places of an axis, one by one."""
    return [
        take(node, f"{name}_{index}", axis, index, index + 1) for index in range(node.shape[axis])
    ]


def _one_hot(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node = only_tensor(operation, arguments[0])
    axis = config.get("axis", -1)
    if axis not in (-1, len(node.shape) + 1):
        raise UnsupportedLayerError(operation, f"axis={axis}", "use the last axis, and transpose")
    return one_hot(operation, node, int(config["num_classes"]))


HANDLERS: dict[str, Handler] = {
    "BroadcastTo": _broadcast_to,
    "Diff": _diff,
    "Flip": _flip,
    "OneHot": _one_hot,
    "Repeat": _repeat,
    "Roll": _roll,
    "Rot90": _rot90,
    "Tile": _tile,
    "Tril": _triangle(np.tril),
    "Triu": _triangle(np.triu),
}
