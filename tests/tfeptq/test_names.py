"""Names are for people: what a layer is called changes no integer."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers as L

import tfeptq


def siamese(last: str) -> tuple[keras.Model, list[np.ndarray]]:
    """A shared layer on two inputs, whose difference is small and then magnified."""
    keras.utils.set_random_seed(0)
    left, right = keras.Input((8,), name="left"), keras.Input((8,), name="right")
    shared, head = L.Dense(16, name="dense"), L.Dense(4, name=last)
    model = keras.Model([left, right], head(L.Subtract(name="gap")([shared(left), shared(right)])))
    head.kernel.assign(head.kernel * 40)
    generator = np.random.default_rng(0)
    return model, [generator.normal(size=(64, 8)).astype("float32") for _ in range(2)]


def test_a_layer_may_be_named_like_the_second_call_of_another():
    outputs = {}
    for last in ("head", "dense_1"):
        model, samples = siamese(last)
        config = tfeptq.QuantizationConfig(rounding="nearest", samples=64)
        outputs[last] = tfeptq.quantize(model, samples, config).predict(samples, verbose=0)
    np.testing.assert_array_equal(outputs["head"], outputs["dense_1"])


def test_a_layer_may_be_named_like_a_quantizer_or_a_border():
    inputs = keras.Input((4,), name="x")
    hidden = L.Dense(4, name="x_quantizer")(inputs)
    outputs = L.Dense(4, name="x_to_int8")(L.ReLU(name="x_quantizer_quantizer")(hidden))
    model = keras.Model(inputs, outputs)
    samples = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    widths = {"x": 16, "x_quantizer": 16, "x_to_int8": 8}
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=32, activation_bits=widths)
    quantized = tfeptq.quantize(model, samples, config)
    expected = model.predict(samples, verbose=0)
    found = quantized.predict(samples, verbose=0)
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
    assert quantized.bit_widths["x_to_int8"] == (8, 8)
