"""Training that ends further from the float model than it began."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

from tests.tfeptq import small_models
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.config import QuantizationConfig
from tfeptq.pipeline import quantize
from tfeptq.preparation import prepare
from tfeptq.rounding import safeguard
from tfeptq.rounding.safeguard import OutputErrors, kept_if_nearer

CONFIG = QuantizationConfig(rounding="nearest", samples=24)


def rounded():
    model, data = small_models.residual_network(), small_models.images(24)
    return quantize(model, data, CONFIG), OutputErrors(prepare(model), [data], count=24)


def test_what_training_loses_is_taken_back():
    quantized, errors = rounded()
    layer = quantized.weighted_layers[0]
    before = quantized.get_weights()
    found = kept_if_nearer(lambda: layer.shift_bias(1.0), quantized, errors)
    assert not found.is_kept
    assert "is kept; more samples or steps help" in found.sentence()
    for left, expected in zip(quantized.get_weights(), before, strict=True):
        np.testing.assert_array_equal(left, expected)


def test_what_training_gains_is_kept():
    quantized, errors = rounded()
    layer = quantized.weighted_layers[0]
    bias = np.asarray(layer.layer.bias)
    layer.shift_bias(1.0)
    found = kept_if_nearer(lambda: layer.shift_bias(-1.0), quantized, errors)
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
    errors = OutputErrors(model, [data], count=40)
    assert errors.of(moved) == pytest.approx(expected, rel=1e-5)
    assert errors.of(model) == 0.0


@pytest.mark.parametrize("kept_bytes", [0, safeguard._KEPT_BYTES])
def test_the_float_model_is_asked_once_unless_its_outputs_are_large(kept_bytes, monkeypatch):
    monkeypatch.setattr(safeguard, "_KEPT_BYTES", kept_bytes)
    quantized, errors = rounded()
    asked, plain = [], safeguard.quick_outputs
    monkeypatch.setattr(
        safeguard, "quick_outputs", lambda graph: asked.append(graph) or plain(graph)
    )
    first, again = errors.of(quantized), errors.of(quantized)
    assert first == again > 0.0
    own = [graph for graph in asked if graph is not LayerGraph.of(quantized)]
    assert len(own) == (1 if kept_bytes else 2)


def test_errors_are_those_of_the_models_as_they_are_called():
    model, data = small_models.residual_network(), small_models.images(24)
    canonical, quantized = prepare(model), quantize(model, data, CONFIG)
    wanted, found = (np.asarray(each(data), np.float64) for each in (canonical, quantized))
    expected = np.sqrt(np.mean(np.square(found - wanted)) / wanted.var())
    errors = OutputErrors(canonical, [data], count=24)
    assert errors.of(quantized) == pytest.approx(expected, rel=1e-5)


def test_an_error_that_a_step_knows_is_not_measured_again(monkeypatch):
    quantized, errors = rounded()
    measured, plain = [], OutputErrors.of
    monkeypatch.setattr(OutputErrors, "of", lambda *of: measured.append(1) or plain(*of))
    inner = []

    def step():
        layer = quantized.weighted_layers[0]
        inner.append(kept_if_nearer(lambda: layer.shift_bias(1.0), quantized, errors))
        return inner[0].left

    found = kept_if_nearer(step, quantized, errors)
    assert len(measured) == 3
    assert found.after == found.before == inner[0].left == errors.of(quantized)
    assert inner[0].after > inner[0].left
