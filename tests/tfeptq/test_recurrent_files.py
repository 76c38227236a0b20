"""Unrolled recurrent layers on the whole road: one scale through time, weights written once."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

import tfeptq
import tflite_export

F, U = 3, 5


def network(steps: int, layer) -> keras.Model:
    keras.utils.set_random_seed(4)
    inputs = keras.Input((steps, F))
    return keras.Model(inputs, L.Dense(2, name="head")(layer(inputs)))


def samples(steps: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(48, steps, F)).astype("float32")


def quantized(length: int, layer, **settings):
    settings = {"rounding": "nearest", "samples": 48, **settings}
    model = network(length, layer)
    made = tfeptq.quantize(model, samples(length), tfeptq.QuantizationConfig(**settings))
    return model, made


def error(model, made, path, runtime: str) -> float:
    """Of the exported file, relative to the float model."""
    tflite_export.export(made, path)
    values = samples(model.inputs[0].shape[1])[:16]
    expected = model.predict(values, verbose=0)
    found = tflite_export.run(path, values, runtime=runtime)
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


LAYERS = {
    "lstm": lambda: L.LSTM(U, name="layer"),
    "gru": lambda: L.GRU(U, name="layer"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_more_steps_add_operators_and_nothing_else(name, tmp_path):
    few, many = (quantized(steps, LAYERS[name](), target="microcontroller") for steps in (2, 4))
    assert len(few[1].activation_quantizers) == len(many[1].activation_quantizers)
    for model, made in (few, many):
        assert error(model, made, tmp_path / "m.tflite", "tflm") < 0.1
        found = tflite_export.inspect(tmp_path / "m.tflite")
        constants = [t.name for t in found.tensors if t.name.endswith(("/weights", "/bias"))]
        names = [name.rpartition("/")[0] for name in constants if name.endswith("/weights")]
        assert len(names) == len(set(names))
        # The first step may read its states in another scale.
        assert len(constants) <= 3 * len(names)


def test_a_state_is_one_tensor_to_the_request(tmp_path):
    bits = {"layer_recurrent_add_1": 16, "layer_recurrent_multiply": 16}
    model, made = quantized(2, L.LSTM(U, name="layer"), activation_bits=bits)
    assert made.bit_widths["layer_recurrent_add_1"] == (None, 16)
    assert error(model, made, tmp_path / "m.tflite", "litert") < 0.1
    made.save(tmp_path / "m.keras")
    tflite_export.export(tfeptq.load_model(tmp_path / "m.keras"), tmp_path / "again.tflite")
    assert (tmp_path / "again.tflite").read_bytes() == (tmp_path / "m.tflite").read_bytes()


def test_training_through_time(tmp_path):
    settings = {"rounding": "eptq", "weight_bits": 4, "steps": 10, "batch_size": 16}
    model, made = quantized(3, L.SimpleRNN(U, name="rnn"), **settings)
    assert error(model, made, tmp_path / "m.tflite", "litert") < 0.3
    weights = {name: bits for name, (bits, _) in made.bit_widths.items() if bits}
    assert weights["rnn_recurrent"] == 4


def test_widths_of_a_recurrent_layer_are_chosen():
    config = {
        "weight_bits": (4, 8),
        "sensitivity": "label_free",
        "rounding": "optq",
        "first_last_bits": None,
        "budget": tfeptq.Budget(weight_bytes=330),
    }
    _, made = quantized(2, L.LSTM(U, name="layer"), **config)
    assert {bits for bits, _ in made.bit_widths.values() if bits} == {4, 8}
