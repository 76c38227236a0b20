"""Operations that repeat, stack or reverse parts of tensors, as concatenations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfeptq.preparation.constants import batched_constant
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import Node, reshape
from tfeptq.preparation.operations.arguments import Handler
from tfeptq.preparation.operations.reductions import inner_axes
from tfeptq.preparation.slices import joined, take


def _stack(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    parts = [
        part if isinstance(part, Node) else batched_constant(operation, part)
        for part in arguments[0]
    ]
    rank = len(parts[0].shape) + 2
    axis = config["axis"] % rank
    if axis == 0:
        raise UnsupportedLayerError(operation, "axis=0 is the batch", "stack another axis")
    shape = list(parts[0].shape)
    shape.insert(axis - 1, 1)
    expanded = [
        reshape(part, f"{operation.name}_{index}", tuple(shape)) for index, part in enumerate(parts)
    ]
    return joined(operation.name, expanded, axis - 1)


def _unstack(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> list[Node]:
    node = arguments[0]
    (axis,) = inner_axes(operation, config["axis"], node)
    shape = (*node.shape[:axis], *node.shape[axis + 1 :])
    return [
        reshape(part, f"{operation.name}_{index}_flat", shape)
        for index, part in enumerate(_parts(operation.name, node, axis))
    ]


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
        name = f"{operation.name}_{axis}"
        node = joined(name, list(_parts(name, node, axis))[::-1], axis)
    return node


def _parts(name: str, node: Node, axis: int) -> list[Node]:
    """The places of an axis, one by one."""
    return [
        take(node, f"{name}_{index}", axis, index, index + 1) for index in range(node.shape[axis])
    ]


HANDLERS: dict[str, Handler] = {
    "BroadcastTo": _broadcast_to,
    "Flip": _flip,
    "Repeat": _repeat,
    "Stack": _stack,
    "Tile": _tile,
    "Unstack": _unstack,
}
