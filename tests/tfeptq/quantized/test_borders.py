"""Requantizations from int16 to int8 against the integer operator."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfeptq.quantized.borders import Narrowing
from tflite_export.graph.structure import Operator, Quantization, Tensor
from tflite_export.runtimes import reference


@pytest.mark.parametrize("high", [1.0, 3.3, 5.9])
def test_narrowing_is_the_operators_arithmetic(high):
    codes = np.arange(-(2**15), 2**15).astype(np.int16)[None]
    input_scale = np.float32(6 / 32767)
    layer = Narrowing(8)
    values = codes.astype(np.float32) * input_scale
    layer.build(values.shape)
    layer.set_range(-0.7, high)
    scale, zero_point = layer.parameters()
    quantizations = Quantization(np.atleast_1d(input_scale)), Quantization(scale, zero_point)
    tensors = {
        name: Tensor(name, codes.shape, dtype, quantization)
        for name, dtype, quantization in zip("xy", ("int16", "int8"), quantizations, strict=True)
    }
    operator = Operator("QUANTIZE", ("x",), ("y",), "border")
    expected = reference.run_operator(operator, tensors, [codes])
    differing = []
    for is_final in (False, True):
        if is_final:
            layer.set_grid(input_scale)
        found = np.round(np.asarray(layer(values)) / scale) + zero_point
        differing.append(np.mean(found != expected))
    # Where the first rounding is halfway, the last bit of a float decides.
    assert differing[1] < 1e-4 < differing[0]


def test_narrowing_serialises():
    layer = Narrowing(8, name="x_to_int8")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert isinstance(again, Narrowing)
    assert (again.name, again.bits) == ("x_to_int8", 8)
