"""Reductions over axes, and what statistics are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

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


def _average(
    operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]
) -> Node | list[Node]:
    if len(arguments) > 1 and arguments[1] is not None:
        raise UnsupportedLayerError(operation, "weighs its mean", "multiply, and then take a mean")
    return _over(reductions.mean)(operation, {**config, "keepdims": False}, arguments)


def _log_softmax(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node = arguments[0]
    axes = inner_axes(operation, config["axis"], node)
    return reductions.log_softmax(node, operation.name, axes)


def _norm(
    operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]
) -> Node | list[Node]:
    """Of vectors: the root of the sum of squares, the sum or the largest of magnitudes."""
    order, axis = config["ord"], config["axis"]
    reduce = _NORMS.get("euclidean" if order in (None, 2, 2.0) else order)
    if reduce is None or axis is None or np.size(axis) > 1:
        raise UnsupportedLayerError(
            operation, f"is the norm of order {order} over axis {axis}", "use order 1, 2 or inf"
        )
    return _over(reduce)(operation, config, arguments)


_NORMS: Mapping[Any, Callable[..., Node]] = {
    "euclidean": reductions.euclidean,
    1: reductions.sum_of_magnitudes,
    float("inf"): reductions.largest_magnitude,
}


def _place_of_maximum(
    operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]
) -> Node:
    node = arguments[0]
    if config["axis"] is None or len(node.shape) < 2:
        raise UnsupportedLayerError(
            operation,
            "leaves one number a sample without an axis",
            "return the scores, and look for the largest outside of the file",
        )
    (axis,) = inner_axes(operation, config["axis"], node)
    return reductions.place_of_maximum(
        node, operation.name, axis, keepdims=bool(config["keepdims"])
    )


HANDLERS: dict[str, Handler] = {
    "Amax": _over(reductions.maximum),
    "Amin": _over(reductions.minimum),
    "Argmax": _place_of_maximum,
    "Average": _average,
    "LogSoftmax": _log_softmax,
    "Logsumexp": _over(reductions.log_sum_exp),
    "Max": _over(reductions.maximum),
    "Mean": _over(reductions.mean),
    "Min": _over(reductions.minimum),
    "Norm": _norm,
    "Prod": _over(reductions.product),
    "Sum": _over(reductions.total),
}
