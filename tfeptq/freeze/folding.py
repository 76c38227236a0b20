"""Folding: learned factors go into the scales, biases onto the grid of the integers that ship."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from tfeptq.freeze.kernel_scales import Repair, settle
from tfeptq.quantized.averaging import QuantizedAveragePooling, QuantizedMean
from tfeptq.quantized.borders import Narrowing
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedWeights
from tfeptq.quantized.written import Written, WrittenKernel


def fold(model: keras.Model) -> list[Repair]:
    """Leaves `model` with exactly the integers and float32 scales that ship. Idempotent.

    Biases become multiples of input scale times weight scale and accumulators are rounded as in the
    target's kernel, so that Keras and the file compute the same integers: each call of a shared
    layer in the units of its own scales. (Models saved by versions that did not number the calls
    keep a float bias and float arithmetic where a layer is called on unequal scales.)

    Args:
        model: of quantized layers.

    Returns:
        What had to be widened.
    """
    for layer in model.layers:
        if isinstance(layer, (QuantizedWeights, ActivationQuantizer)):
            layer.fold()
    repairs = settle(model, is_trained=True)
    kernels = Written.of(model).computing()
    _set_codes(kernels)
    _set_grids(kernels)
    for (layer, index), found in _parameters(kernels).items():
        if len(found) > 1:
            continue
        (input_scale, reach), output_scale, dtype = found.pop()
        if isinstance(layer, QuantizedWeights):
            integers = layer.integer_bias(input_scale, output_scale, reach=reach, dtype=dtype)
            layer.snap_bias(integers, input_scale, call_index=index)
            layer.set_accumulator_grid(input_scale, output_scale, call_index=index)
        else:
            layer.set_accumulator_grid(input_scale, output_scale)
    return repairs


_Accumulating = QuantizedWeights | QuantizedMean
#: Scale and reach of the input, scale and type of the output.
_Parameters = tuple[tuple[np.float32, int], np.float32, str]


def _parameters(
    kernels: Sequence[WrittenKernel],
) -> dict[tuple[_Accumulating, int], set[_Parameters]]:
    """With which parameters each call, by its number, of a layer that accumulates is made."""
    found: dict[tuple[_Accumulating, int], set[_Parameters]] = {}
    for kernel in kernels:
        if isinstance(kernel.layer, _Accumulating):
            source, target = kernel.sources[0], kernel.target
            given = (source.parameters()[0], source.reach)
            parameters = (given, target.parameters()[0], target.container)
            found.setdefault((kernel.layer, kernel.index), set()).add(parameters)
    return found


def _set_codes(kernels: Sequence[WrittenKernel]) -> None:
    """Tells average pooling on which codes it works, unless it works on several."""
    codes: dict[QuantizedAveragePooling, set[tuple[np.float32, int]]] = {}
    for kernel in kernels:
        if isinstance(kernel.layer, QuantizedAveragePooling):
            codes.setdefault(kernel.layer, set()).add(kernel.sources[0].parameters())
    for layer, parameters in codes.items():
        if len(parameters) == 1:
            layer.set_codes(*parameters.pop())


def _set_grids(kernels: Sequence[WrittenKernel]) -> None:
    """Tells 8-bit copies of 16-bit tensors in which steps those come."""
    for kernel in kernels:
        if isinstance(kernel.layer, Narrowing):
            kernel.layer.set_grid(kernel.sources[0].parameters()[0])
