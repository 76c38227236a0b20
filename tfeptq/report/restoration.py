"""A layer of a quantized model with more bits, for the time of a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfeptq.calibrate.thresholds import fitted_grid
from tfeptq.canonical import linear
from tfeptq.canonical.integer_types import activation_range
from tfeptq.canonical.layer_graph import Call
from tfeptq.quantized.quantizers import asymmetric_parameters, fake_quantize
from tfeptq.quantized.wrappers import QuantizedWeights
from tfeptq.quantized.written import WrittenKernel

FLOAT, WEIGHTS_8, OUTPUT_8, OUTPUT_16 = "float", "8-bit weights", "8-bit output", "16-bit output"
WAYS = (FLOAT, WEIGHTS_8, OUTPUT_8, OUTPUT_16)
_OUTPUT_BITS = {OUTPUT_8: 8, OUTPUT_16: 16}


def applicable(kernel: WrittenKernel, way: str) -> bool:
    """Whether a way gives an operator more than it has."""
    if way in _OUTPUT_BITS:
        return kernel.target.bits < _OUTPUT_BITS[way]
    if way == WEIGHTS_8:
        return isinstance(kernel.layer, QuantizedWeights) and kernel.layer.bits < 8
    return True


class Restored:
    """Replaces what the operators of one layer compute; a hook of `LayerGraph.execute`.

    Biases make the means of outputs those of the float model, as bias correction would.

    Args:
        layer: of the canonical model.
        kernels: all operators of the layer.
        way: one of `WAYS`.
    """

    def __init__(self, layer: keras.Layer, kernels: Sequence[WrittenKernel], way: str) -> None:
        self._layer, self._way = layer, way
        self._computed = {kernel.call.output for kernel in kernels}
        self._written = {(kernel.relu or kernel.call).output: kernel.target for kernel in kernels}
        wrapper = kernels[0].layer
        is_weighted = isinstance(wrapper, QuantizedWeights)
        self._kernel = self._restored_kernel(wrapper.grid_name) if is_weighted else None

    def _restored_kernel(self, grid_name: str) -> Any:
        """None where the weights stay as they are."""
        if self._way == FLOAT:
            return self._layer.kernel
        if self._way != WEIGHTS_8:
            return None
        grid = fitted_grid(
            self._layer, None, grid=grid_name, bits=8, method="max", per_channel=True
        )
        kernel = keras.ops.convert_to_numpy(self._layer.kernel)
        return grid.values(grid.nearest(kernel))

    def __call__(self, call: Call, inputs: list[Any], output: Any, expected: Any) -> Any:
        """The output of a call, replaced where it is the layer's.

        Args:
            expected: what the float model has there.
        """
        if call.output in self._computed and self._kernel is not None:
            linear_part = linear.linear_operation(self._layer, inputs[0], self._kernel)
            axes = list(range(len(linear_part.shape) - 1))
            return linear_part + tf.reduce_mean(expected - linear_part, axis=axes)
        if self._written.get(call.inputs[0]) is not call.layer:
            return output
        if self._way == FLOAT:
            return inputs[0]
        bits = _OUTPUT_BITS.get(self._way)
        return output if bits is None else _quantized(inputs[0], bits)


def _quantized(values: tf.Tensor, bits: int) -> tf.Tensor:
    """By the range of the values themselves."""
    ends = float(tf.reduce_min(values)), float(tf.reduce_max(values))
    scale, zero_point = asymmetric_parameters(*ends, bits=bits)
    low, high = activation_range(bits)
    return fake_quantize(values, scale=scale, zero_point=zero_point, low=low, high=high)
