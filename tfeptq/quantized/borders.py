"""Requantization from int16 to int8 in front of a kernel, rounded as its operator rounds."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfeptq.quantized.kernel_rounding import grid_between_roundings, rounded_to_grid
from tfeptq.quantized.quantizers import ActivationQuantizer


@keras.saving.register_keras_serializable(package="tfeptq")
class Narrowing(ActivationQuantizer):
    """Quantizer of an 8-bit copy of a 16-bit tensor.

    QUANTIZE rounds the product with a fraction to an integer, and that divided by a power of two
    once more: without this one value in a hundred would be another code in Keras.
    """

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.grid = self._constant("grid", 0.0)

    def call(
        self,
        inputs: Any,
        is_fused: bool = False,
        ends: tuple[float, float] | None = None,
        imitates_kernel: bool = True,
    ) -> Any:
        """See `ActivationQuantizer.call` and `QuantizedWeights.call`."""
        if imitates_kernel:
            inputs = rounded_to_grid(inputs, self.grid, requantization="twice")
        return super().call(inputs, is_fused, ends)

    def set_grid(self, input_scale: np.float32) -> None:
        """Starts to round as the operator does, once both scales are final."""
        output_scale, _ = self.parameters()
        multiplier = np.float64(input_scale) / output_scale
        self.grid.assign(np.float32(grid_between_roundings(multiplier, output_scale)))
