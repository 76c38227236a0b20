"""Which of the features is the largest, as a layer of canonical and quantized models."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfeptq.canonical.own_dtype import DTYPE


@keras.saving.register_keras_serializable(package="tfeptq")
class ArgMax(keras.layers.Layer):
    """Index of the largest value of the last axis, the first of equal ones; int32 in the file.

    Inputs are (N, ..., features), outputs float32 (N, ...).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": DTYPE, **kwargs})

    def call(self, inputs: Any) -> Any:
        return ops.cast(ops.argmax(inputs, axis=-1), "float32")

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape[:-1])
