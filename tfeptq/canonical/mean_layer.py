"""The mean over any axes, as a layer of canonical and quantized models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfeptq.canonical.own_dtype import DTYPE


@keras.saving.register_keras_serializable(package="tfeptq")
class Mean(keras.layers.Layer):
    """Means; those over all positions of an image are Keras's GlobalAveragePooling2D.

    Args:
        axes: counted with the batch, which is none of them.
        keepdims: leaves an axis of size 1 for each.
    """

    def __init__(self, axes: Sequence[int], keepdims: bool = False, **kwargs: Any) -> None:
        super().__init__(**{"dtype": DTYPE, **kwargs})
        self.axes = tuple(axes)
        self.keepdims = keepdims

    def call(self, inputs: Any) -> Any:
        return ops.mean(inputs, axis=self.axes, keepdims=self.keepdims)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(
            1 if axis in self.axes else size
            for axis, size in enumerate(input_shape)
            if self.keepdims or axis not in self.axes
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axes": self.axes, "keepdims": self.keepdims}
