"""Averages against the integer kernels' arithmetic."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfeptq.quantized.averaging import QuantizedAveragePooling, QuantizedMean
from tflite_export.graph.structure import Operator, Quantization, Tensor
from tflite_export.runtimes import reference

SHAPE = (200, 9, 7, 3)


def integer_mean(codes, input_scale, output_scale):
    scales = {"x": input_scale, "y": output_scale}
    shapes = {"x": (1, *SHAPE[1:]), "y": (1, SHAPE[-1])}
    tensors = {
        name: Tensor(name, shapes[name], "int8", Quantization(np.float32([scales[name]]), -128))
        for name in scales
    }
    attributes = {"axes": (1, 2), "keep_dims": False}
    operator = Operator("MEAN", ("x",), ("y",), "mean", attributes)
    return reference.run_operator(operator, tensors, [codes])


@pytest.mark.parametrize(
    ("ratio", "is_coarse"), [(0.9, False), (3.7, True), (14, True), (60, False)]
)
def test_the_mean_rounds_twice_as_its_kernel_does(ratio, is_coarse):
    """The finer the output's scale, the coarser the values between, until one rounding will do."""
    input_scale, output_scale = np.float32(0.1), np.float32(0.1 / ratio)
    generator = np.random.default_rng(0)
    mean = generator.uniform(1, min(255 / ratio, 200), (SHAPE[0], 1, 1, 1))
    codes = np.clip(generator.normal(mean, 3, SHAPE), 0, 255).astype(int) - 128
    expected = integer_mean(codes.astype(np.int8), input_scale, output_scale)
    layer = QuantizedMean(keras.layers.GlobalAveragePooling2D(), "twice")
    values = ((codes + 128) * input_scale).astype("float32")
    layer.build(values.shape)
    differing = []
    for is_final in (False, True):
        if is_final:
            layer.set_accumulator_grid(input_scale, output_scale)
        found = np.clip(np.round(np.asarray(layer(values)) / output_scale) - 128, -128, 127)
        differing.append(np.mean(found != expected))
    # A handful of values is so close to halfway that the last bit of a float decides.
    assert differing[1] <= 0.005
    if is_coarse:
        assert differing[0] > 4 * max(differing[1], 0.005)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("zero_point", [-128, 0, 100])
def test_the_average_rounds_halves_of_codes_away_from_zero(padding, zero_point):
    shape, scale = (20, 9, 7, 3), np.float32(0.07)
    codes = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
    pooling = keras.layers.AveragePooling2D((2, 3), padding=padding)
    layer = QuantizedAveragePooling(pooling)
    values = ((codes.astype(np.float32) - zero_point) * scale).astype("float32")
    layer.build(values.shape)
    plain = np.round(np.asarray(layer(values)) / scale) + zero_point
    layer.set_codes(scale, zero_point)
    found = np.round(np.asarray(layer(values)) / scale) + zero_point
    quantization = Quantization(np.atleast_1d(scale), zero_point)
    tensors = {"x": Tensor("x", (1, *shape[1:]), "int8", quantization)}
    tensors["y"] = Tensor("y", (1, *found.shape[1:]), "int8", quantization)
    attributes = {"filter_h": 2, "filter_w": 3, "stride_h": 2, "stride_w": 3}
    attributes["padding"] = padding.upper()
    operator = Operator("AVERAGE_POOL_2D", ("x",), ("y",), "pool", attributes)
    expected = reference.run_operator(operator, tensors, [codes])
    np.testing.assert_array_equal(found, expected)
    assert np.mean(plain != expected) > 0.03


def test_a_mean_serialises():
    layer = QuantizedMean(keras.layers.GlobalAveragePooling2D(keepdims=True, name="m"), "twice")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert (again.name, again.requantization, again.layer.keepdims) == ("m", "twice", True)
