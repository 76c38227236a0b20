"""Numbers of classes as ones and zeros, and means over the words that are there."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import tfeptq
import tflite_export
from tests.tfeptq.preparation.canonical_check import randomize
from tfeptq.preparation import UnsupportedLayerError, prepare, prove

LENGTH, CLASSES = 4, 6
TOKENS = np.random.default_rng(0).integers(1, CLASSES, (64, LENGTH)).astype("int32")
TOKENS[:, 2:] *= np.arange(64)[:, None] % 2

MAKERS = {
    "operation": lambda ids: L.Flatten()(ops.one_hot(ids, CLASSES)),
    "of TensorFlow": lambda ids: L.Flatten()(
        L.Lambda(lambda given: tf.one_hot(given, CLASSES, axis=1), (CLASSES, LENGTH))(ids)
    ),
    "of a few": lambda ids: L.Flatten()(ops.one_hot(L.Reshape((2, 2))(ids), CLASSES)),
    "any of them": lambda ids: ops.max(ops.one_hot(ids, CLASSES), axis=1),
    "how many": lambda ids: ops.sum(ops.one_hot(ids, CLASSES), axis=1),
    "mean of words": lambda ids: L.GlobalAveragePooling1D()(
        L.Embedding(CLASSES, 5, mask_zero=True)(ids)
    ),
}


def made(maker: str) -> keras.Model:
    ids = L.Input((LENGTH,), dtype="int32")
    return randomize(keras.Model(ids, L.Dense(3, name="last")(MAKERS[maker](ids))))


@pytest.mark.parametrize("maker", MAKERS)
def test_they_are_rows_of_unit_matrices_and_quotients(maker):
    model = made(maker)
    prove(model, prepare(model), [TOKENS])


@pytest.mark.parametrize("maker", ["any of them", "mean of words"])
def test_files_hold_them(maker, tmp_path):
    model = made(maker)
    config = tfeptq.QuantizationConfig(weight_bits=8, rounding="nearest", samples=64)
    tflite_export.export(tfeptq.quantize(model, TOKENS, config, verbose=0), tmp_path / "m.tflite")
    found = tflite_export.run(tmp_path / "m.tflite", TOKENS)
    wanted = model.predict(TOKENS, verbose=0)
    assert 10 * np.log10(wanted.var() / np.mean((found - wanted) ** 2)) > 25.0


def test_large_tables_and_computed_numbers_are_refused():
    ids = L.Input((LENGTH,), dtype="int32")
    with pytest.raises(UnsupportedLayerError, match="at most 1024 are taken; use an Embedding"):
        prepare(keras.Model(ids, L.Dense(2)(ops.one_hot(ids, 2000))))
    with pytest.raises(UnsupportedLayerError, match="takes computed numbers of rows"):
        prepare(keras.Model(ids, ops.one_hot(ops.argmax(ops.one_hot(ids, 3), axis=-1), 3)))


@pytest.mark.parametrize("layer", [L.Hashing(5), L.CategoryEncoding(6, "one_hot")])
def test_what_comes_before_the_model_is_refused_so(layer):
    ids = L.Input((1,), dtype="int32")
    with pytest.raises(UnsupportedLayerError, match=r"compute it before|use keras\.ops\.one_hot"):
        prepare(keras.Model(ids, layer(ids)))
