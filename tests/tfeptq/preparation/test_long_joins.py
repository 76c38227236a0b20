"""What joins many tensors is joined in steps where a kernel takes few."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import tfeptq
import tflite_export
from tests.tfeptq.preparation.canonical_check import randomize
from tfeptq.preparation import prepare, prove

SAMPLES = np.random.default_rng(0).normal(size=(32, 5, 3)).astype("float32")


def parts(x, count: int) -> list:
    return [x[:, index % 5] * (1.0 + index) for index in range(count)]


JOINS = {
    "repeated": lambda x: L.RepeatVector(21)(ops.max(x, axis=1)),
    "joined": lambda x: L.Concatenate()(parts(x, 23)),
    "stacked": lambda x: ops.stack(parts(x, 101), axis=1),
    "ten are few enough": lambda x: L.Concatenate()(parts(x, 10)),
    "steps": lambda x: L.SimpleRNN(2, return_sequences=True)(L.RepeatVector(12)(x[:, 0])),
}


@pytest.mark.parametrize("target", ["android", "microcontroller", "ethos-u"])
@pytest.mark.parametrize("name", JOINS)
def test_joins_are_as_long_as_the_target_takes(name, target):
    inputs = keras.Input((5, 3))
    model = randomize(keras.Model(inputs, JOINS[name](inputs)))
    canonical = prepare(model, tfeptq.QuantizationConfig(target=target))
    prove(model, canonical, [SAMPLES])
    joins = [layer for layer in canonical.layers if isinstance(layer, L.Concatenate)]
    longest = max(len(layer.input) for layer in joins)
    assert longest <= 10 or target == "android"
    if target == "android":
        assert len(joins) == (2 if name == "steps" else 1)


def test_long_joins_run_on_a_microcontroller(tmp_path):
    inputs = keras.Input((5, 3))
    x = L.RepeatVector(12)(L.Dense(4)(L.Flatten()(inputs)))
    x = L.Concatenate()([x, L.SimpleRNN(2, return_sequences=True)(x)])
    model = randomize(keras.Model(inputs, L.Dense(2)(x)))
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=32, target="microcontroller")
    result = tflite_export.export(tfeptq.quantize(model, SAMPLES, config), tmp_path / "m.tflite")
    assert all(report.output_agreement > 0.9 for report in result.verification.runtimes)
