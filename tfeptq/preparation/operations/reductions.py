"""Reductions over axes, and what statistics are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tfeptq.preparation import reductions
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import Node
from tfeptq.preparation.operations.arguments import Handler, axes


def _over(reduce: Callable[..., Node]) -> Handler:
    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
        node = arguments[0]
        if config.get("initial") is not None:
            raise UnsupportedLayerError(operation, "has an initial value", "leave it out")
        keepdims = bool(config["keepdims"])
        chosen = inner_axes(operation, config["axis"], node)
        if len(chosen) == len(node.shape) and not keepdims:
            raise UnsupportedLayerError(
                operation, "leaves one number a sample without an axis", "give keepdims=True"
            )
        return reduce(node, operation.name, chosen, keepdims=keepdims)

    return handler


def inner_axes(operation: Any, axis: Any, node: Node) -> tuple[int, ...]:
    """Axes of an operation, counted from 0 without the batch.

    Raises:
        UnsupportedLayerError: the batch is one of them.
    """
    chosen = axes(axis, len(node.shape) + 1)
    if 0 in chosen:
        raise UnsupportedLayerError(
            operation, f"axis={axis} includes the batch", "name the axes behind the batch"
        )
    return tuple(index - 1 for index in chosen)


HANDLERS: dict[str, Handler] = {
    "Max": _over(reductions.maximum),
    "Mean": _over(reductions.mean),
    "Min": _over(reductions.minimum),
    "Sum": _over(reductions.total),
}
