"""Models of tokens: their inputs number the rows of a table and have no scale."""

from __future__ import annotations

import functools
import importlib.util

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import tfeptq
import tflite_export
from tfeptq.preparation import UnsupportedLayerError, prepare

TOKENS, TIME, DEPTH = 23, 6, 8


class Tokens(L.Layer):
    """Sums of the rows of tokens and of their places."""

    def __init__(self):
        super().__init__(name="embedded")
        self.of_tokens, self.of_places = L.Embedding(TOKENS, DEPTH), L.Embedding(TIME, DEPTH)

    def build(self, shape):
        self.of_tokens.build(shape)
        self.of_places.build(shape)

    def call(self, tokens):
        return self.of_tokens(tokens) + self.of_places(ops.arange(TIME))


def classifier(dtype="int32") -> keras.Model:
    keras.utils.set_random_seed(0)
    tokens = keras.Input((TIME,), dtype=dtype, name="tokens")
    x = Tokens()(tokens)
    x = x + L.MultiHeadAttention(2, 4)(x, x)
    x = L.LayerNormalization(name="norm")(x)
    return keras.Model(tokens, L.Dense(3, activation="softmax", name="head")(x[:, 0]))


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, TOKENS, size=(41, TIME))


@pytest.fixture(scope="module")
def quantize(tokens):
    """The classifier in one of these ways, quantized once."""

    def quantized(rounding: str, target: str) -> tfeptq.QuantizedModel:
        config = tfeptq.QuantizationConfig(rounding=rounding, steps=4, samples=41, target=target)
        return tfeptq.quantize(classifier(), tokens, config)

    return functools.cache(quantized)


@pytest.mark.parametrize(
    ("rounding", "target"),
    [("nearest", "android"), ("optq", "microcontroller"), ("eptq", "android")],
)
def test_the_file_computes_what_keras_predicts(tokens, quantize, tmp_path, rounding, target):
    if target == "microcontroller" and importlib.util.find_spec("tflite_micro") is None:
        pytest.skip("extra 'microcontroller' is missing")
    quantized = quantize(rounding, target)
    result = tflite_export.export(quantized, tmp_path / "m.tflite")
    wanted, predicted = (np.asarray(model(tokens)) for model in (classifier(), quantized))
    found = tflite_export.run(result.path, tokens, runtime="reference")
    assert np.abs(predicted - found).max() <= 2 / 256
    assert np.abs(wanted - found).max() < 0.05
    stored = tflite_export.inspect(result.path)
    assert next(t for t in stored.tensors if t.name == "tokens").type == "int32"


def test_a_saved_model_and_other_ends(tokens, quantize, tmp_path):
    quantized = quantize("nearest", "android")
    quantized.save(tmp_path / "m.keras")
    loaded = tfeptq.load_model(tmp_path / "m.keras")
    left, right = (tflite_export.export(m, tmp_path / "m.tflite") for m in (quantized, loaded))
    assert left.path.read_bytes() == right.path.read_bytes()
    floats = tflite_export.export(
        quantized, tmp_path / "f.tflite", input_type="float32", output_type="float32"
    )
    assert tflite_export.run(floats.path, tokens).dtype == np.float32


def test_widths_of_token_models_are_chosen(tokens):
    config = tfeptq.QuantizationConfig(
        weight_bits=(4, 8),
        rounding="nearest",
        samples=41,
        first_last_bits=None,
        measured_moves=3,
        budget=tfeptq.Budget(weight_bytes=400),
    )
    quantized = tfeptq.quantize(classifier(), tokens, config)
    assert {bits for bits, _ in quantized.bit_widths.values() if bits} == {4, 8}


def test_indices_come_from_inputs_alone():
    inputs = keras.Input((TIME,))
    with pytest.raises(UnsupportedLayerError, match="computed numbers of rows"):
        prepare(keras.Model(inputs, L.Embedding(TOKENS, 2)(2 * inputs)))


def test_widths_of_activations_are_chosen_behind_tokens(tokens):
    inputs = keras.Input((TIME,), dtype="int32", name="tokens")
    x = L.Dense(4, activation="relu", name="dense")(L.Embedding(TOKENS, DEPTH)(inputs))
    model = keras.Model(inputs, L.Dense(3, name="head")(L.Flatten()(x)))
    config = tfeptq.QuantizationConfig(
        weight_bits=(2, 8),
        activation_bits=(8, 16),
        rounding="nearest",
        samples=41,
        budget=tfeptq.Budget(bit_operations=20_000),
    )
    quantized = tfeptq.quantize(model, tokens, config)
    point = quantized.choice.point_of(quantized.bit_widths)
    assert point.costs["bit_operations"] <= 20_000
    assert quantized.bit_widths["tokens"] == (None, 32)
