"""Poolings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfeptq.preparation import pooling
from tfeptq.preparation.errors import UnsupportedLayerError, check_data_format, check_dimensions
from tfeptq.preparation.nodes import Node
from tfeptq.preparation.operations.arguments import Handler


def _pool(kind: type) -> Handler:
    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
        check_data_format(operation, config["data_format"])
        check_dimensions(operation, arguments[0].shape)
        return pooling.pool(
            kind,
            operation.name,
            arguments[0],
            size=config["pool_size"],
            strides=config["strides"],
            padding=config["padding"],
        )

    return handler


def _adaptive(kind: type) -> Handler:
    """Pooling to a size; windows are equal where the image's size is a multiple of it."""

    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
        (node,) = arguments
        check_data_format(operation, config["data_format"])
        check_dimensions(operation, node.shape)
        found, wanted = node.shape[:-1], tuple(config["output_size"])
        if any(have % want for have, want in zip(found, wanted, strict=True)):
            raise UnsupportedLayerError(
                operation,
                f"pools {found} to {wanted} by windows of unequal sizes",
                f"give an output_size that divides {found}, or resize before it",
            )
        size = tuple(have // want for have, want in zip(found, wanted, strict=True))
        return pooling.pool(kind, operation.name, node, size=size, strides=size, padding="valid")

    return handler


HANDLERS: dict[str, Handler] = {
    "AdaptiveAveragePool": _adaptive(keras.layers.AveragePooling2D),
    "AdaptiveMaxPool": _adaptive(keras.layers.MaxPooling2D),
    "AveragePool": _pool(keras.layers.AveragePooling2D),
    "MaxPool": _pool(keras.layers.MaxPooling2D),
}
