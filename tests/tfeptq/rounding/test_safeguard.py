"""Training that ends further from the float model than it began."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

from tests.tfeptq import small_models
from tfeptq.config import QuantizationConfig
from tfeptq.pipeline import quantize
from tfeptq.preparation import prepare
from tfeptq.rounding.safeguard import kept_if_nearer, output_error

CONFIG = QuantizationConfig(rounding="nearest", samples=24)


def rounded():
    model, data = small_models.residual_network(), small_models.images(24)
    return prepare(model), quantize(model, data, CONFIG), [data]


def test_what_training_loses_is_taken_back():
    canonical, quantized, samples = rounded()
    layer = quantized.weighted_layers[0]
    before = quantized.get_weights()
    found = kept_if_nearer(lambda: layer.shift_bias(1.0), quantized, canonical, samples, count=24)
    assert not found.is_kept
    assert "is kept; more samples or steps help" in found.sentence()
    for left, expected in zip(quantized.get_weights(), before, strict=True):
        np.testing.assert_array_equal(left, expected)


def test_what_training_gains_is_kept():
    canonical, quantized, samples = rounded()
    layer = quantized.weighted_layers[0]
    bias = np.asarray(layer.layer.bias)
    layer.shift_bias(1.0)
    found = kept_if_nearer(lambda: layer.shift_bias(-1.0), quantized, canonical, samples, count=24)
    assert found.is_kept
    np.testing.assert_allclose(layer.layer.bias, bias, atol=1e-6)


@pytest.mark.parametrize("units", [1e-6, 1.0, 1e6])
def test_outputs_count_in_their_own_units(units):
    inputs = keras.Input((4,))
    wide, narrow = L.Rescaling(units)(inputs), L.Rescaling(1.0)(inputs)
    model = keras.Model(inputs, [wide, narrow])
    moved = keras.Model(inputs, [L.Rescaling(units, offset=units)(inputs), narrow])
    data = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    expected = np.sqrt(0.5) / data.std()
    assert output_error(moved, model, [data], count=40) == pytest.approx(expected, rel=1e-4)
    assert output_error(model, model, [data], count=40) == 0.0
