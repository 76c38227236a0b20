"""Layers that step through time are unrolled over the same weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from tests.tfeptq.preparation.canonical_check import check, randomize
from tfeptq.preparation import UnsupportedLayerError, prepare

T, F, U = 4, 3, 5


class Leaky(L.Layer):
    """A cell of the user's, with one state."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.state_size = self.output_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.state_size), name="kernel")

    def get_initial_state(self, batch_size=None):
        return ops.ones((batch_size, self.state_size)) * 0.5

    def call(self, inputs, states):
        state = 0.9 * states[0] + ops.tanh(ops.matmul(inputs, self.kernel))
        return state * 2.0, [state]


LAYERS = {
    "SimpleRNN": lambda: L.SimpleRNN(U),
    "LSTM": lambda: L.LSTM(U),
    "LSTM of all steps": lambda: L.LSTM(U, return_sequences=True, use_bias=False),
    "LSTM with hard gates": lambda: L.LSTM(U, recurrent_activation="hard_sigmoid"),
    "GRU": lambda: L.GRU(U, return_sequences=True),
    "GRU of the old kind": lambda: L.GRU(U, reset_after=False),
    "backwards": lambda: L.LSTM(U, go_backwards=True, return_sequences=True),
    "both ways": lambda: L.Bidirectional(L.LSTM(U, return_sequences=True)),
    "both ways, added": lambda: L.Bidirectional(L.GRU(U), merge_mode="sum"),
    "both ways, apart": lambda: L.Bidirectional(L.GRU(U, return_state=True), merge_mode=None),
    "stacked cells": lambda: L.RNN([L.LSTMCell(U), L.GRUCell(2)], return_sequences=True),
    "a cell of the user's": lambda: L.RNN(Leaky(U)),
    "both ways, multiplied": lambda: L.Bidirectional(L.LSTM(U), merge_mode="mul"),
    "both ways, averaged": lambda: L.Bidirectional(
        L.SimpleRNN(U, return_sequences=True), merge_mode="ave"
    ),
    "Dense in time": lambda: L.TimeDistributed(L.Dense(2, activation="relu")),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_through_time(name):
    inputs = keras.Input((T, F))
    canonical = check(randomize(keras.Model(inputs, LAYERS[name]()(inputs))))
    assert len([layer for layer in canonical.layers if isinstance(layer, L.Dense)]) <= 6


def test_the_weights_of_all_steps_are_the_same():
    inputs = keras.Input((T, F))
    canonical = check(randomize(keras.Model(inputs, L.LSTM(U, name="lstm")(inputs))))
    dense = [layer for layer in canonical.layers if isinstance(layer, L.Dense)]
    assert sorted(tuple(layer.kernel.shape) for layer in dense) == [(F, 4 * U), (U, 4 * U)]


def test_states_are_inputs_and_outputs_where_they_are_asked_for():
    inputs, state = keras.Input((T, F)), keras.Input((U,))
    outputs = L.GRU(U, return_state=True)(inputs, initial_state=state)
    check(randomize(keras.Model([inputs, state], outputs)))


def test_a_convolution_in_time_keeps_one_kernel():
    inputs = keras.Input((T, 6, 5, F))
    model = keras.Model(inputs, L.TimeDistributed(L.Conv2D(2, 3, activation="relu"))(inputs))
    canonical = check(randomize(model))
    assert len([layer for layer in canonical.layers if isinstance(layer, L.Conv2D)]) == 1


def test_images_through_time():
    inputs = keras.Input((3, 6, 5, F))
    check(randomize(keras.Model(inputs, L.ConvLSTM2D(2, 3, padding="same")(inputs))))


def test_all_steps_are_calls_of_the_same_layers():
    few, many = (
        check(randomize(keras.Model(inputs := keras.Input((steps, F)), L.GRU(U, name="g")(inputs))))
        for steps in (3, 7)
    )
    # Longer sequences have more places to read, and nothing else.
    moves = (L.Cropping2D, L.Reshape)
    made = [[type(e) for e in model.layers if type(e) not in moves] for model in (few, many)]
    assert made[0] == made[1]


class Derived(L.LSTMCell):
    """Read from its `call`, where the bias stands behind the sum of two products."""


@pytest.mark.parametrize("cell", [L.LSTMCell, Derived])
def test_a_bias_behind_every_call_is_folded(cell):
    inputs = keras.Input((T, F))
    canonical = check(randomize(keras.Model(inputs, L.RNN(cell(U, implementation=2))(inputs))))
    assert not [e for e in canonical.layers if isinstance(e, L.DepthwiseConv2D)]


MASKED = {
    "LSTM": lambda: L.LSTM(U),
    "GRU of all steps": lambda: L.GRU(U, return_sequences=True),
    "backwards": lambda: L.SimpleRNN(U, go_backwards=True, return_state=True),
    "zeros": lambda: L.LSTM(U, return_sequences=True, zero_output_for_mask=True),
    "both ways": lambda: L.Bidirectional(L.GRU(U, return_sequences=True)),
    "a cell of the user's": lambda: L.RNN(Leaky(U), return_sequences=True, return_state=True),
    "stacked cells": lambda: L.RNN([L.GRUCell(U), L.LSTMCell(2)], return_sequences=True),
    "Dense in time": lambda: L.TimeDistributed(L.Dense(2)),
}


def masks(count: int) -> np.ndarray:
    """Ends, a beginning, a gap and everything."""
    draw = np.random.default_rng(2)
    rows = draw.uniform(size=(count, T)) < 0.6
    rows[0], rows[1] = np.arange(T) < 2, True
    return rows


@pytest.mark.parametrize("name", MASKED)
def test_masks_that_are_inputs(name):
    inputs, mask = keras.Input((T, F)), keras.Input((T,), dtype="bool")
    model = keras.Model([inputs, mask], MASKED[name]()(inputs, mask=mask))
    randomize(model)
    given = [np.random.default_rng(1).normal(size=(6, T, F)).astype("float32"), masks(6)]
    expected = keras.tree.flatten(model(given))
    found = keras.tree.flatten(prepare(model)([given[0], given[1].astype("float32")]))
    for left, right in zip(expected, found, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


@pytest.mark.parametrize("behind", [lambda x: x, L.Dropout(0.5)], ids=["at once", "behind dropout"])
def test_masks_of_tokens(behind):
    tokens = keras.Input((T,), dtype="int32")
    outputs = L.LSTM(U)(behind(L.Embedding(6, F, mask_zero=True)(tokens)))
    model = randomize(keras.Model(tokens, outputs))
    given = np.where(masks(6), np.random.default_rng(1).integers(1, 6, (6, T)), 0)
    found = prepare(model)(given)
    np.testing.assert_allclose(model(given), found, atol=1e-5)


def test_what_masks_floats_is_refused():
    inputs = keras.Input((T, F))
    masked = L.Masking()(inputs)
    with pytest.raises(UnsupportedLayerError, match="which integers do not tell apart"):
        prepare(keras.Model(inputs, L.LSTM(U)(masked)))


def test_open_lengths_and_kept_states_are_refused():
    inputs = keras.Input((T, F), batch_size=1)
    with pytest.raises(UnsupportedLayerError, match="keeps its state between calls"):
        prepare(keras.Model(inputs, L.LSTM(U, stateful=True)(inputs)))
