"""Images that keep the ratio of their sides: cut, or framed, before they are resized."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import tfeptq
import tflite_export
from tfeptq.preparation import prepare, prove

WAYS = {
    "cut": {"crop_to_aspect_ratio": True},
    "framed": {"pad_to_aspect_ratio": True},
    "framed in grey": {"pad_to_aspect_ratio": True, "fill_value": 3.0},
}


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, *shape)).astype("float32")


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(5, 5), (8, 5), (20, 14), (9, 13)])
@pytest.mark.parametrize("way", WAYS)
def test_the_layer_and_the_function_keep_the_ratio(way, size, interpolation):
    options = {"interpolation": interpolation, **WAYS[way]}
    for shape in ((9, 13, 2), (10, 7, 3)):
        inputs = keras.Input(shape)
        by_layer = L.Resizing(*size, **options)(inputs)
        by_function = ops.image.resize(inputs, size, **options)
        model = keras.Model(inputs, [by_layer, by_function])
        prove(model, prepare(model), [images(*shape)])


@pytest.mark.parametrize("target", ["android", "microcontroller"])
@pytest.mark.parametrize("way", WAYS)
def test_files_hold_them(way, target, tmp_path):
    if target == "microcontroller":
        pytest.importorskip("tflite_micro", reason="extra 'microcontroller' is missing")
    inputs = keras.Input((9, 13, 2))
    x = L.Resizing(6, 6, **WAYS[way])(inputs)
    keras.utils.set_random_seed(0)
    model, samples = keras.Model(inputs, L.Conv2D(3, 3)(x)), images(9, 13, 2)
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=5, target=target)
    quantized = tfeptq.quantize(model, samples, config, verbose=0)
    tflite_export.export(quantized, tmp_path / "m.tflite")
    found = tflite_export.run(tmp_path / "m.tflite", samples, runtime="reference")
    wanted = model.predict(samples, verbose=0)
    assert 10 * np.log10(wanted.var() / np.mean((found - wanted) ** 2)) > 25.0
