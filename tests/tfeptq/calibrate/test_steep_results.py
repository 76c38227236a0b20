"""Inverse roots of rows of zeros, which nothing needs, take no codes from the others."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

import tfeptq
import tflite_export

IMAGES = np.random.default_rng(0).normal(size=(48, 6, 5, 4)).astype("float32")


@pytest.mark.parametrize(
    "norm", [L.UnitNormalization, lambda: L.LayerNormalization(epsilon=1e-9, center=False)]
)
def test_rows_of_zeros_cost_the_others_nothing(tmp_path, norm):
    inputs = keras.Input(IMAGES.shape[1:])
    normed = norm()(L.ZeroPadding2D(1)(inputs))
    model = keras.Model(inputs, normed)
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=48)
    quantized = tfeptq.quantize(model, IMAGES, config)
    right = model.predict(IMAGES, verbose=0)
    path = tmp_path / "m.tflite"
    tflite_export.export(quantized, path)
    for found in (quantized.predict(IMAGES, verbose=0), tflite_export.run(path, IMAGES)):
        assert np.sqrt(np.mean(np.square(found - right))) <= 0.06 * right.std()
        assert not found[:, 0].any()
