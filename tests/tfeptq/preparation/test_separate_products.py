"""Matrices of their own for each place are one operator with weights that are learned."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import tfeptq
import tflite_export
from tests.tfeptq.preparation.canonical_check import randomize
from tfeptq.canonical.linear import WEIGHTED_LAYERS
from tfeptq.preparation import prepare

PLACES, ROWS, TERMS, COLUMNS = 6, 5, 4, 3
SAMPLES = np.random.default_rng(0).normal(size=(48, PLACES, ROWS, TERMS)).astype("float32")
MATRICES = np.random.default_rng(1).normal(size=(PLACES, TERMS, COLUMNS)).astype("float32")


def network() -> keras.Model:
    inputs = keras.Input((PLACES, ROWS, TERMS))
    x = ops.relu(ops.einsum("bprt,ptc->bprc", inputs, MATRICES))
    return randomize(keras.Model(inputs, L.Dense(2)(L.Flatten()(x))))


def test_all_matrices_are_the_weights_of_one_layer():
    layers = [x for x in prepare(network()).layers if isinstance(x, WEIGHTED_LAYERS)]
    assert [type(layer) for layer in layers] == [L.DepthwiseConv2D, L.Dense]
    held = np.asarray(layers[0].kernel)
    np.testing.assert_array_equal(held, MATRICES.transpose(1, 0, 2)[None])


@pytest.mark.parametrize("target", ["android", "microcontroller"])
def test_the_file_computes_them(tmp_path, target):
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=32, target=target)
    model = network()
    quantized = tfeptq.quantize(model, SAMPLES[:32], config)
    tflite_export.export(quantized, tmp_path / "m.tflite")
    runtime = {"android": "litert", "microcontroller": "tflm"}[target]
    found = tflite_export.run(tmp_path / "m.tflite", SAMPLES[32:], runtime=runtime)
    wanted = model.predict(SAMPLES[32:], verbose=0)
    # A thirtieth of the outputs' deviation.
    assert np.std(found - wanted) < np.std(wanted) / 30
