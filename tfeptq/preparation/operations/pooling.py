"""Poolings and the reductions that are poolings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfeptq.preparation import pooling
from tfeptq.preparation.errors import UnsupportedLayerError, check_data_format
from tfeptq.preparation.nodes import Node
from tfeptq.preparation.operations.arguments import Handler, axes


def _pool(kind: type) -> Handler:
    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
        check_data_format(operation, config["data_format"])
        return pooling.pool(
            kind,
            operation.name,
            arguments[0],
            size=config["pool_size"],
            strides=config["strides"],
            padding=config["padding"],
        )

    return handler


def _over_positions(reduce: Callable[..., Node]) -> Handler:
    """A reduction over all axes but the batch and the channels."""

    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
        node = arguments[0]
        rank = len(node.shape)
        if rank not in (2, 3) or axes(config["axis"], rank + 1) != tuple(range(1, rank)):
            raise UnsupportedLayerError(
                operation, f"axis={config['axis']}", "reduce over height and width, or over time"
            )
        if config.get("initial") is not None:
            raise UnsupportedLayerError(operation, "has an initial value", "leave it out")
        return reduce(operation.name, node, keepdims=bool(config["keepdims"]))

    return handler


HANDLERS: dict[str, Handler] = {
    "AveragePool": _pool(keras.layers.AveragePooling2D),
    "Max": _over_positions(pooling.global_max),
    "MaxPool": _pool(keras.layers.MaxPooling2D),
    "Mean": _over_positions(pooling.global_average),
}
