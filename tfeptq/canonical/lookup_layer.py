"""Rows of a table by their numbers, as a layer of canonical and quantized models."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfeptq.canonical.own_dtype import DTYPE


@keras.saving.register_keras_serializable(package="tfeptq")
class Lookup(keras.layers.Layer):
    """An embedding. The file holds its table in the scale of its output, like any constant.

    Inputs are whole numbers, in whatever type, (..., ); outputs have the axis of the rows behind.

    Args:
        rows, depth: shape of the table.
        added: to the numbers of a sample, place by place; None: nothing.
    """

    def __init__(self, rows: int, depth: int, added: Any = None, **kwargs: Any) -> None:
        super().__init__(**{"dtype": DTYPE, **kwargs})
        self.rows, self.depth = rows, depth
        self.added = np.asarray(0 if added is None else added, np.int32)

    def build(self, input_shape: Any) -> None:
        self.table = self.add_weight(
            name="table", shape=(self.rows, self.depth), initializer="zeros", trainable=False
        )

    def call(self, inputs: Any) -> Any:
        return ops.take(self.table, ops.cast(inputs, "int32") + self.added, axis=0)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape, self.depth)

    def get_config(self) -> dict[str, Any]:
        added = self.added.tolist() if self.added.any() else None
        return {**super().get_config(), "rows": self.rows, "depth": self.depth, "added": added}
