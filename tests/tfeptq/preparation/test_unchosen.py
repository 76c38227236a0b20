"""Masked maxima, minima and places of largest values: -1e9 beside numbers that are read."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import tfeptq
import tflite_export
from tests.tfeptq.preparation.canonical_check import randomize
from tests.tfeptq.preparation.test_unseen import FORMS, TIME, TOKENS, WIDTH, WORDS
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.preparation import UnsupportedLayerError, prepare, prove


def _opposite(form):
    return lambda x, mask: -form(-x, mask)


def _smallest(form):
    return lambda x, mask: ops.min(_opposite(form)(x, mask), axis=1)


#: What is made of numbers and the mask of tokens, by one of the ways in which people mask.
READERS = {
    "max": lambda form: lambda x, mask: ops.max(form(x, mask), axis=1),
    "max of positive ones": lambda form: lambda x, m: ops.max(form(ops.relu(x), m), axis=1),
    "max, kept": lambda form: lambda x, mask: ops.max(form(x, mask), axis=1, keepdims=True)[:, 0],
    "pooling": lambda form: lambda x, mask: L.GlobalMaxPooling1D()(form(x, mask)),
    "min": _smallest,
    "max of turned ones": lambda form: (
        lambda x, mask: ops.max(ops.transpose(form(x, mask), (0, 2, 1)), axis=2)
    ),
    "sigmoid": lambda form: lambda x, mask: ops.sum(ops.sigmoid(form(x, mask)), axis=1),
}


def pooled_model(reader: str, form: str) -> keras.Model:
    ids = L.Input((TIME,), dtype="int32", name="ids")
    x = L.Dense(WIDTH, name="mixed")(L.Embedding(WORDS, WIDTH, name="words")(ids))
    mask = ops.cast(ops.not_equal(ids, 0), "float32")[:, :, None]
    pooled = READERS[reader](FORMS[form])(x, mask)
    return randomize(keras.Model(ids, L.Dense(3, name="last")(pooled)))


@pytest.mark.parametrize(
    ("reader", "form"),
    [("max", form) for form in FORMS]
    + [(reader, form) for reader in READERS for form in ("added", "chosen") if reader != "max"],
)
def test_no_tensor_is_far_from_what_is_read(reader, form):
    model = pooled_model(reader, form)
    canonical = prepare(model)
    prove(model, canonical, [TOKENS])
    tensors = LayerGraph.of(canonical).execute([TOKENS[:8].astype("float32")])
    assert max(float(np.abs(values).max()) for values in tensors.values()) < 60.0


@pytest.mark.parametrize(
    "form",
    [
        lambda x, mask: ops.where(mask > 0.5, x, 1e9),
        lambda x, mask: x + (1.0 - mask) * 1e9,
        lambda x, mask: 0.5 * (x - (mask - 1.0) * 65504.0),
    ],
)
def test_minima_with_large_numbers(form):
    inputs = [L.Input((TIME, 4)), L.Input((TIME, 1))]
    model, generator = keras.Model(inputs, ops.min(form(*inputs), axis=1)), np.random.default_rng(0)
    x = generator.normal(size=(16, TIME, 4)).astype("float32")
    mask = (np.arange(TIME)[:, None] < generator.integers(1, TIME, (16, 1, 1))).astype("float32")
    canonical = prepare(model)
    prove(model, canonical, [x, mask])
    tensors = LayerGraph.of(canonical).execute([x, mask])
    assert max(float(np.abs(values).max()) for values in tensors.values()) < 60.0


@pytest.mark.parametrize(("reader", "target"), [("max", "android"), ("min", "microcontroller")])
def test_files_keep_what_is_read(reader, target, tmp_path):
    model = pooled_model(reader, "chosen")
    config = tfeptq.QuantizationConfig(weight_bits=8, rounding="nearest", samples=64, target=target)
    tflite_export.export(tfeptq.quantize(model, TOKENS, config, verbose=0), tmp_path / "m.tflite")
    runtime = {"android": "litert", "microcontroller": "tflm"}[target]
    found = tflite_export.run(tmp_path / "m.tflite", TOKENS, runtime=runtime)
    wanted = model.predict(TOKENS, verbose=0)
    assert 10 * np.log10(np.mean(wanted**2) / np.mean((found - wanted) ** 2)) > 25.0


def test_the_place_of_the_largest_of_masked_scores():
    inputs = [L.Input((TIME, 4)), L.Input((TIME, 4))]
    chosen = ops.argmax(ops.where(inputs[1] > 0.5, inputs[0], -1e9), axis=-1)
    model, generator = keras.Model(inputs, chosen), np.random.default_rng(0)
    scores = generator.normal(size=(16, TIME, 4)).astype("float32")
    mask = (generator.random(scores.shape) < 0.5).astype("float32")
    mask[..., 0] = 1.0
    canonical = prepare(model)
    prove(model, canonical, [scores, mask])
    tensors = LayerGraph.of(canonical).execute([scores, mask])
    assert max(float(np.abs(values).max()) for values in tensors.values()) < 60.0


def test_samples_of_which_nothing_is_seen_are_found_out():
    model = pooled_model("max", "chosen")
    tokens = np.concatenate([TOKENS, np.zeros_like(TOKENS[:1])])
    with pytest.raises(UnsupportedLayerError, match="differs from the model once prepared"):
        prove(model, prepare(model), [tokens])
