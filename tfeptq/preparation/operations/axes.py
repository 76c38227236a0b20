"""Operations that name axes of a tensor, wherever its batch is.

Attention is often one product for queries, keys and values: a transposition brings the axis of the
three to the front, and an index takes each. Until then the batch is behind another axis: such a
tensor is a node around the one that has it in front, which only what is here reads; everything else
refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.preparation.constants import batched_constant
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import MovedBatch, Node, reshape
from tfeptq.preparation.operations.arguments import Handler, axes
from tfeptq.preparation.permutes import permute
from tfeptq.preparation.slices import joined, rearranged, take


def batch_axis(node: Node) -> int:
    """Where the batch is among the axes of a tensor."""
    return int(node.options["axis"]) if node.kind is MovedBatch else 0


def refuse_moved(operation: Any, arguments: Any) -> None:
    """Raises UnsupportedLayerError where what is read has its batch at another axis."""
    for node in keras.tree.flatten(arguments):
        if isinstance(node, Node) and node.kind is MovedBatch:
            raise UnsupportedLayerError(
                operation,
                f"reads {node.name!r}, which moves the batch to axis {batch_axis(node)}",
                "keep the batch in front, or move it back before",
            )


def _moved(operation: Any, node: Node, axis: int) -> Node:
    if axis == 0:
        return node
    return Node(MovedBatch, operation.name, [node], node.shape, {"axis": axis})


def in_front(node: Node) -> Node:
    """The tensor with the batch as its first axis."""
    return node.inputs[0] if node.kind is MovedBatch else node


def _inner(operation: Any, axis: int, node: Node) -> int:
    """An axis of a tensor, counted without the batch."""
    batch = batch_axis(node)
    if axis == batch:
        raise UnsupportedLayerError(
            operation, f"axis={axis} is the batch", "name another axis of the tensor"
        )
    return axis - (axis > batch)


def _transpose(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    rank = len(arguments[0].shape) + 1
    order = config["axes"] or range(rank)[::-1]
    return _permute(operation, arguments[0], [axis % rank for axis in order])


def _swap_axes(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    order = list(range(len(arguments[0].shape) + 1))
    first, second = config["axis1"], config["axis2"]
    order[first], order[second] = order[second], order[first]
    return _permute(operation, arguments[0], order)


def _move_axis(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    # The order of the axes is what the same operation does to their numbers.
    rank = len(arguments[0].shape) + 1
    numbers = np.empty(range(rank))
    moved = np.moveaxis(numbers, config["source"], config["destination"])
    return _permute(operation, arguments[0], list(moved.shape))


def _permute(operation: Any, node: Node, order: Sequence[int]) -> Node:
    batch = batch_axis(node)
    inner = [_inner(operation, axis, node) for axis in order if axis != batch]
    return _moved(
        operation, permute(in_front(node), operation.name, inner), list(order).index(batch)
    )


def _get_item(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    """Integers take one place and drop the axis, slices take a range, None adds an axis."""
    node, key = arguments[:2]
    keys = _of_all_axes(key, len(node.shape) + 1)
    at = [index for index, item in enumerate(keys) if item is not None][batch_axis(node)]
    if keys[at] != slice(None):
        raise UnsupportedLayerError(
            operation, "takes part of the batch", "take it with ':' as it is"
        )
    found = _indexed(operation, in_front(node), [*keys[:at], *keys[at + 1 :]])
    return _moved(operation, found, sum(not isinstance(item, int) for item in keys[:at]))


def _of_all_axes(key: Any, rank: int) -> list[Any]:
    keys = list(key) if isinstance(key, (list, tuple)) else [key]
    named = sum(item is not None and item is not Ellipsis for item in keys)
    rest = [slice(None)] * (rank - named)
    if Ellipsis not in keys:
        return [*keys, *rest]
    place = keys.index(Ellipsis)
    return [*keys[:place], *rest, *keys[place + 1 :]]


def _indexed(operation: Any, node: Node, keys: Sequence[Any]) -> Node:
    result, shape, axis = node, [], 0
    for item in keys:
        if item is None:
            shape.append(1)
            continue
        name, places = f"{operation.name}_{axis}", _chosen(operation, item, node.shape[axis])
        if places.step > 0:
            result = take(result, name, axis, places.start, places.stop, places.step)
        else:
            result = rearranged(result, name, axis, list(places))
        if isinstance(item, slice):
            shape.append(result.shape[axis])
        axis += 1
    return reshape(result, operation.name, tuple(shape))


def _chosen(operation: Any, item: Any, size: int) -> range:
    """The places of an axis that an integer or a slice takes."""
    if isinstance(item, int):
        return range(item % size, item % size + 1)
    places = range(*item.indices(size)) if isinstance(item, slice) else range(0)
    if not places:
        raise UnsupportedLayerError(
            operation, f"takes {item} of an axis", "take integers or ranges of some places"
        )
    return places


def _split(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> list[Node]:
    node, front = arguments[0], in_front(arguments[0])
    axis = _inner(operation, config["axis"] % (len(node.shape) + 1), node)
    pieces = np.split(np.arange(node.shape[axis]), config["indices_or_sections"])
    parts = [
        take(front, f"{operation.name}_{index}", axis, int(piece[0]), int(piece[-1]) + 1)
        for index, piece in enumerate(pieces)
    ]
    return [_moved(operation, part, batch_axis(node)) for part in parts]


def _unstack(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> list[Node]:
    node, front = arguments[0], in_front(arguments[0])
    outer = config["axis"] % (len(node.shape) + 1)
    axis = _inner(operation, outer, node)
    shape = (*node.shape[:axis], *node.shape[axis + 1 :])
    batch = batch_axis(node) - (outer < batch_axis(node))
    parts = (
        take(front, f"{operation.name}_{index}", axis, index, index + 1)
        for index in range(node.shape[axis])
    )
    return [
        _moved(operation, reshape(part, f"{operation.name}_{index}_flat", shape), batch)
        for index, part in enumerate(parts)
    ]


def _stack(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    parts = _tensors(operation, arguments[0])
    batch = batch_axis(parts[0])
    axis = config["axis"] % (len(parts[0].shape) + 2)
    # Among the axes of the result: where it comes before the batch, that moves on.
    batch += axis <= batch
    inner = axis - (axis > batch)
    shape = (*parts[0].shape[:inner], 1, *parts[0].shape[inner:])
    expanded = [
        reshape(in_front(part), f"{operation.name}_{index}", shape)
        for index, part in enumerate(parts)
    ]
    return _moved(operation, joined(operation.name, expanded, inner), batch)


def _concatenate(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    tensors = _tensors(operation, arguments[0])
    if len(tensors) == 1:
        return tensors[0]
    axis = _inner(operation, config["axis"] % (len(tensors[0].shape) + 1), tensors[0])
    found = joined(operation.name, [in_front(each) for each in tensors], axis)
    return _moved(operation, found, batch_axis(tensors[0]))


def _tensors(operation: Any, items: Sequence[Any]) -> list[Node]:
    """Nodes, and constants as such; all with the batch at one axis."""
    nodes = [
        item if isinstance(item, Node) else batched_constant(operation, item) for item in items
    ]
    if len({batch_axis(node) for node in nodes}) > 1:
        refuse_moved(operation, nodes)
    return nodes


def _expand_dims(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node = arguments[0]
    rank = len(node.shape) + 1 + np.size(config["axis"])
    added = axes(config["axis"], rank)
    kept = [axis for axis in range(rank) if axis not in added]
    batch = kept[batch_axis(node)]
    sizes = dict(zip((axis for axis in kept if axis != batch), node.shape, strict=True))
    shape = tuple(sizes.get(axis, 1) for axis in range(rank) if axis != batch)
    return _moved(operation, reshape(in_front(node), operation.name, shape), batch)


def _squeeze(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node, batch = arguments[0], batch_axis(arguments[0])
    others = [axis for axis in range(len(node.shape) + 1) if axis != batch]
    sizes = dict(zip(others, node.shape, strict=True))
    if config["axis"] is None:
        dropped = {axis for axis, size in sizes.items() if size == 1}
    else:
        dropped = {*axes(config["axis"], len(node.shape) + 1)} - {batch}
    shape = tuple(size for axis, size in sizes.items() if axis not in dropped)
    found = reshape(in_front(node), operation.name, shape)
    return _moved(operation, found, batch - sum(axis < batch for axis in dropped))


def _reducing(handler: Handler) -> Handler:
    """A reduction by one that knows tensors with the batch in front."""

    def handle(
        operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]
    ) -> Node | list[Node]:
        node, batch = arguments[0], batch_axis(arguments[0])
        if batch == 0:
            return handler(operation, config, arguments)
        chosen = axes(config["axis"], len(node.shape) + 1)
        inner = tuple(_inner(operation, axis, node) + 1 for axis in chosen)
        rest = arguments[1:]
        found = handler(operation, {**config, "axis": inner}, (in_front(node), *rest))
        assert isinstance(found, Node)
        gone = 0 if config.get("keepdims") else sum(axis < batch for axis in chosen)
        return _moved(operation, found, batch - gone)

    return handle


def _by_number(handler: Handler) -> Handler:
    """Arithmetic of a tensor and a number, of which the place of the batch is no matter."""

    def handle(
        operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]
    ) -> Node | list[Node]:
        batches = {batch_axis(each) for each in arguments if isinstance(each, Node)}
        others = [each for each in arguments if not isinstance(each, Node)]
        if batches == {0} or len(batches) != 1 or any(np.ndim(each) for each in others):
            refuse_moved(operation, arguments)
            return handler(operation, config, arguments)
        given = tuple(in_front(each) if isinstance(each, Node) else each for each in arguments)
        found = handler(operation, config, given)
        assert isinstance(found, Node)
        return _moved(operation, found, batches.pop())

    return handle


_REDUCTIONS = ("Amax", "Amin", "Max", "Mean", "Min", "Prod", "Sum")
_BY_NUMBER = ("Add", "Divide", "Multiply", "Negative", "Subtract", "TrueDivide")


def aware(handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    """Some handlers of tensors with the batch in front, as such of tensors with it anywhere."""
    return {
        **{name: _reducing(handlers[name]) for name in _REDUCTIONS},
        **{name: _by_number(handlers[name]) for name in _BY_NUMBER},
    }


HANDLERS: dict[str, Handler] = {
    "Concatenate": _concatenate,
    "ExpandDims": _expand_dims,
    "GetItem": _get_item,
    "Moveaxis": _move_axis,
    "Split": _split,
    "Squeeze": _squeeze,
    "Stack": _stack,
    "Swapaxes": _swap_axes,
    "Transpose": _transpose,
    "Unstack": _unstack,
}
