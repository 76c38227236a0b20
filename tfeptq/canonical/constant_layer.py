"""An array that the file holds, as a layer of canonical and quantized models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfeptq.canonical.own_dtype import DTYPE


@keras.saving.register_keras_serializable(package="tfeptq")
class Constant(keras.layers.Layer):
    """One copy of an array for every sample of its input, whose values do not matter.

    It is no operator of the file: a merge reads the array, quantized as any other tensor.

    Args:
        shape: of the array, without the batch.
    """

    def __init__(self, shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**{"dtype": DTYPE, **kwargs})
        self.shape = tuple(shape)

    def build(self, input_shape: Any) -> None:
        self.value = self.add_weight(
            name="value", shape=self.shape, initializer="zeros", trainable=False
        )

    def call(self, inputs: Any) -> Any:
        return ops.broadcast_to(self.value, (ops.shape(inputs)[0], *self.shape))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], *self.shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "shape": self.shape}
