"""Masks that models write themselves: -1e9 beside scores, in the ways in which people write it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import tfeptq
import tflite_export
from tests.tfeptq.preparation.canonical_check import randomize
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.preparation import UnsupportedLayerError, prepare, prove

TIME, WIDTH, WORDS = 6, 8, 20
CAUSAL = np.tri(TIME, dtype="float32")
GENERATOR = np.random.default_rng(0)
TOKENS = np.where(np.arange(TIME) < GENERATOR.integers(2, TIME + 1, (64, 1)), 5, 0)
TOKENS = (TOKENS * GENERATOR.integers(1, 4, TOKENS.shape)).astype("int32")

#: How scores are masked, by a mask of ones and zeros, computed or not.
FORMS = {
    "added": lambda scores, mask: scores + (1.0 - mask) * -1e9,
    "added to what is scaled later": lambda scores, mask: (scores + (mask - 1.0) * 1e9) * 0.7,
    "subtracted": lambda scores, mask: scores - 1e4 * (1.0 - mask),
    "chosen": lambda scores, mask: ops.where(mask > 0.5, scores, -1e9),
    "chosen, moved": lambda scores, mask: ops.where(mask < 0.5, scores - 1e9, scores),
    "of float16": lambda scores, mask: scores + (1.0 - mask) * -65504.0,
    "first": lambda scores, mask: ops.add((1.0 - mask) * -1e30, scores),
}


def masked_model(form: str, *, is_causal: bool) -> keras.Model:
    """One head of attention over tokens, by its own arithmetic."""
    ids = L.Input((TIME,), dtype="int32", name="ids")
    x = L.Embedding(WORDS, WIDTH, name="words")(ids)
    query, key, value = (L.Dense(WIDTH, name=name)(x) for name in ("query", "key", "value"))
    scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / np.sqrt(WIDTH)
    mask = CAUSAL if is_causal else ops.cast(ops.not_equal(ids, 0), "float32")[:, None]
    shares = ops.softmax(FORMS[form](scores, mask), axis=-1)
    return randomize(keras.Model(ids, L.Dense(3, name="last")(ops.matmul(shares, value))))


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_no_tensor_is_far_from_the_scores(form, is_causal):
    model = masked_model(form, is_causal=is_causal)
    canonical = prepare(model)
    prove(model, canonical, [TOKENS])
    tensors = LayerGraph.of(canonical).execute([TOKENS[:8].astype("float32")])
    assert max(float(np.abs(values).max()) for values in tensors.values()) < 60.0


@pytest.mark.parametrize("form", ["added", "chosen, moved"])
def test_files_keep_what_is_seen(form, tmp_path):
    model = masked_model(form, is_causal=False)
    config = tfeptq.QuantizationConfig(weight_bits=8, rounding="nearest", samples=64)
    tflite_export.export(tfeptq.quantize(model, TOKENS, config, verbose=0), tmp_path / "m.tflite")
    found = tflite_export.run(tmp_path / "m.tflite", TOKENS)
    wanted = model.predict(TOKENS, verbose=0)
    assert 10 * np.log10(np.mean(wanted**2) / np.mean((found - wanted) ** 2)) > 25.0


def test_a_bias_beside_a_mask_stays():
    """Relative positions and causality in one array."""
    inputs = L.Input((TIME, TIME))
    bias = np.where(CAUSAL > 0, GENERATOR.normal(size=CAUSAL.shape), -1e9).astype("float32")
    model = keras.Model(inputs, ops.softmax(inputs + bias))
    samples = GENERATOR.normal(size=(16, TIME, TIME)).astype("float32")
    prove(model, prepare(model), [samples])


def test_what_is_no_mask_is_found_out():
    """Large slopes of something else: the proof refuses, nothing goes wrong without a word."""
    inputs = L.Input((TIME,))
    model = keras.Model(inputs, ops.softmax(inputs + (ops.sigmoid(inputs) - 1.0) * 2000.0))
    samples = GENERATOR.normal(size=(16, TIME)).astype("float32")
    with pytest.raises(UnsupportedLayerError, match="differs from the model once prepared"):
        prove(model, prepare(model), [samples])


def test_scores_that_others_read_stay_as_they_are():
    inputs = L.Input((TIME, TIME))
    scores = inputs + (1.0 - CAUSAL) * -1e9
    model = keras.Model(inputs, [ops.softmax(scores), scores])
    samples = GENERATOR.normal(size=(16, TIME, TIME)).astype("float32")
    prove(model, prepare(model), [samples])
