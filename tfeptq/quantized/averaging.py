"""Layer wrappers of averages, which round as the integer kernels do once all scales are final.

Averages of few integer codes are often halfway between two codes, and at 4 bits one code is much.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tfeptq.canonical.own_dtype import DTYPE
from tfeptq.quantized.kernel_rounding import (
    TIE_NUDGE,
    grid_between_roundings,
    multiplier_exponent,
    rounded_to_grid,
)


@keras.saving.register_keras_serializable(package="tfeptq")
class QuantizedMean(keras.layers.Wrapper):
    """GlobalAveragePooling2D and the mean over other axes.

    The kernel folds the division by the number of positions into its multiplier, so that the values
    between its two roundings are coarse where the output's scale is the finer one.
    """

    def __init__(self, layer: keras.layers.Layer, requantization: str, **kwargs: Any) -> None:
        super().__init__(layer, **{"name": layer.name, "dtype": DTYPE, **kwargs})
        self.requantization = requantization

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        # Those of an image, where the layer does not say.
        axes = getattr(self.layer, "axes", (1, 2))
        self._positions = math.prod(int(input_shape[axis]) for axis in axes)
        self.grid = self.add_weight(name="grid", shape=(), initializer="zeros", trainable=False)
        self.built = True

    def call(self, inputs: Any, imitates_kernel: bool = True) -> Any:
        """See `QuantizedWeights.call`."""
        outputs = self.layer(inputs)
        if not imitates_kernel:
            return outputs
        return rounded_to_grid(outputs, self.grid, requantization=self.requantization)

    def set_accumulator_grid(self, input_scale: np.float32, output_scale: np.float32) -> None:
        """See `QuantizedWeights.set_accumulator_grid`."""
        multiplier = np.float64(input_scale) / output_scale
        room = 31 + int(multiplier_exponent(multiplier))
        divided = min(self._positions.bit_length() - 1, room)
        grid = grid_between_roundings(multiplier, output_scale, divided_bits=divided)
        self.grid.assign(np.float32(grid))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "requantization": self.requantization}


@keras.saving.register_keras_serializable(package="tfeptq")
class QuantizedAveragePooling(keras.layers.Wrapper):
    """AveragePooling2D: a half goes away from the code zero, not from the real one, not to even."""

    def __init__(self, layer: keras.layers.AveragePooling2D, **kwargs: Any) -> None:
        super().__init__(layer, **{"name": layer.name, "dtype": DTYPE, **kwargs})

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        self.scale = self._constant("scale")
        self.zero_point = self._constant("zero_point")
        self.built = True

    def _constant(self, name: str) -> Any:
        return self.add_weight(name=name, shape=(), initializer="zeros", trainable=False)

    def call(self, inputs: Any) -> Any:
        outputs = self.layer(inputs)
        known = ops.where(self.scale > 0.0, self.scale, 1.0)
        code = outputs / known + self.zero_point
        return outputs + ops.stop_gradient(TIE_NUDGE * ops.sign(code) * self.scale)

    def set_codes(self, scale: np.float32, zero_point: int) -> None:
        """Scale and zero point of the input, which the output shares."""
        self.scale.assign(scale)
        self.zero_point.assign(zero_point)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)
