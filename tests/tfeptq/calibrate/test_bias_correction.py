"""Bias correction removes the mean shift of every channel."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.tfeptq import small_models
from tfeptq.calibrate.bias_correction import correct_biases
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.config import QuantizationConfig
from tfeptq.pipeline import quantize
from tfeptq.preparation import prepare

CONFIG = QuantizationConfig(
    weight_bits=2, first_last_bits=None, rounding="nearest", bias_correction=False, samples=32
)


def means(model, data):
    tensors = LayerGraph.of(model).execute([data])
    return {
        key[0]: np.asarray(value).mean(axis=tuple(range(value.ndim - 1)))
        for key, value in tensors.items()
    }


def uncorrected(model, data):
    """A quantized model before its scales are final: no imitation of a kernel's rounding."""
    quantized = quantize(model, data, CONFIG)
    for layer in quantized.weighted_layers:
        layer.grid.assign(np.zeros(layer.grid.shape))
    return quantized


def test_mean_pre_activations_equal_those_of_the_float_model():
    model, data = small_models.residual_network(), small_models.images(32)
    canonical, quantized = prepare(model), uncorrected(model, data)
    shifts = correct_biases(quantized, canonical, [data])
    after, expected = means(quantized, data), means(canonical, data)
    assert max(np.abs(shift).max() for shift in shifts.values()) > 0.01
    for layer in quantized.weighted_layers:
        np.testing.assert_allclose(after[layer.name], expected[layer.name], atol=2e-5)


def test_correcting_twice_finds_nothing_more():
    model, data = small_models.residual_network(), small_models.images(32)
    canonical, quantized = prepare(model), uncorrected(model, data)
    correct_biases(quantized, canonical, [data])
    again = correct_biases(quantized, canonical, [data])
    assert max(np.abs(shift).max() for shift in again.values()) < 2e-5


@pytest.mark.parametrize("bits", [2, 3])
def test_it_lowers_the_error_of_the_output(bits):
    model, data = small_models.residual_network(), small_models.images(64)
    expected = model.predict(data, verbose=0)
    errors = []
    for correction in (False, True):
        config = dataclasses.replace(CONFIG, weight_bits=bits, bias_correction=correction)
        found = quantize(model, data[:32], config).predict(data, verbose=0)
        errors.append(float(np.square(found - expected).mean()))
    assert errors[1] < errors[0]
