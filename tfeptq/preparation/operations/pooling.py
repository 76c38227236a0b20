"""Poolings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfeptq.preparation import pooling
from tfeptq.preparation.errors import check_data_format
from tfeptq.preparation.nodes import Node
from tfeptq.preparation.operations.arguments import Handler


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


HANDLERS: dict[str, Handler] = {
    "AveragePool": _pool(keras.layers.AveragePooling2D),
    "MaxPool": _pool(keras.layers.MaxPooling2D),
}
