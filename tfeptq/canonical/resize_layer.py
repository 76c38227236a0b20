"""Images in another size, as a layer of canonical and quantized models."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfeptq.canonical.own_dtype import DTYPE


@keras.saving.register_keras_serializable(package="tfeptq")
class Resize(keras.layers.Layer):
    """Any size; those that are whole multiples are Keras's UpSampling2D.

    Kernels count places in 1/1024 of a pixel: at 16 bits their results differ by as much.

    Args:
        height, width: of the output.
        interpolation: "nearest" or "bilinear", between the centres of pixels.
    """

    def __init__(self, height: int, width: int, interpolation: str, **kwargs: Any) -> None:
        super().__init__(**{"dtype": DTYPE, **kwargs})
        self.height, self.width, self.interpolation = height, width, interpolation

    def call(self, inputs: Any) -> Any:
        size = self.height, self.width
        return ops.image.resize(
            inputs, size, interpolation=self.interpolation, data_format="channels_last"
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], self.height, self.width, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        size = {"height": self.height, "width": self.width}
        return {**super().get_config(), **size, "interpolation": self.interpolation}
