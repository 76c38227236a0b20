"""The product of two computed matrices, as a layer of canonical and quantized models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfeptq.canonical.own_dtype import DTYPE


@keras.saving.register_keras_serializable(package="tfeptq")
class MatMul(keras.layers.Layer):
    """Products over the last two axes of two tensors; the axes before them are equal.

    Args:
        transpose_b: the second tensor holds its matrices transposed, (..., columns, terms).

    Attributes:
        terms: products that are summed for one result.
    """

    def __init__(self, transpose_b: bool = False, **kwargs: Any) -> None:
        super().__init__(**{"dtype": DTYPE, **kwargs})
        self.transpose_b = transpose_b
        self.terms = 1

    def build(self, input_shape: Sequence[Any]) -> None:
        self.terms = int(input_shape[0][-1])

    def call(self, inputs: Sequence[Any]) -> Any:
        left, right = inputs
        return ops.matmul(left, ops.swapaxes(right, -1, -2) if self.transpose_b else right)

    def compute_output_shape(self, input_shape: Sequence[Any]) -> Any:
        left, right = input_shape
        return (*left[:-1], right[-2] if self.transpose_b else right[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "transpose_b": self.transpose_b}
