"""Normalizations of the tensor itself, and attention, as primitives."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from tests.tfeptq.preparation.canonical_check import check, randomize
from tfeptq.canonical.lookup_layer import Lookup
from tfeptq.canonical.matmul_layer import MatMul
from tfeptq.preparation import UnsupportedLayerError, prepare, prove

T, F = 7, 6

LAYERS = {
    "layer normalization": L.LayerNormalization(epsilon=1e-3),
    "layer normalization of all": L.LayerNormalization(axis=[1, 2], scale=False),
    "layer normalization of time": L.LayerNormalization(axis=1),
    "rms normalization": L.RMSNormalization(),
    "unit normalization": L.UnitNormalization(),
    "attention": lambda x: L.Attention(use_scale=True)([x, 2 * x]),
    "several heads": lambda x: L.MultiHeadAttention(2, 3)(x, x),
    "cross attention": lambda x: L.MultiHeadAttention(2, 3, value_dim=4)(x, x[:, :4]),
    "attention scores": lambda x: L.MultiHeadAttention(2, 3)(x, x, return_attention_scores=True)[1],
    "grouped queries": lambda x: L.GroupQueryAttention(4, 4, 2)(x, x),
    "dot": lambda x: L.Dot(axes=2)([x, 2 * x]),
    "dot of unit vectors": lambda x: L.Dot(axes=(1, 1), normalize=True)([x, 2 * x]),
    "gelu": lambda x: ops.gelu(x) + L.Dense(F, activation="gelu")(x),
    "gelu, exact": lambda x: ops.gelu(x, approximate=False),
    "matrix product": lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))),
    "einsum of three tensors": lambda x: ops.einsum(
        "btc,bsc,bt->bst", x, 2 * x, ops.mean(x, axis=2)
    ),
    "linear attention": lambda x: ops.einsum(
        "btc,bcd,bt->btd", x, ops.einsum("btc,btd->bcd", x, 2 * x), ops.mean(x, axis=2)
    ),
    "einsum of two tensors": lambda x: ops.einsum("btc,bsc->bts", x, 2 * x),
    "spread": lambda x: ops.std(x, axis=1) + ops.var(x, axis=1),
    "root": lambda x: ops.sqrt(ops.square(x) + 1.0) * ops.rsqrt(ops.square(x) + 0.5),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_transformers(name):
    inputs = keras.Input((T, F))
    check(randomize(keras.Model(inputs, LAYERS[name](inputs))), rounding=1e-5)


def test_images():
    inputs = keras.Input((5, T, F))
    normalized = L.GroupNormalization(3)(inputs)
    outputs = L.MultiHeadAttention(2, 3, attention_axes=(1, 2))(normalized, normalized)
    check(randomize(keras.Model(inputs, outputs)), rounding=1e-4)


def test_a_shared_block_keeps_one_set_of_weights():
    inputs = keras.Input((T, F))
    block = L.MultiHeadAttention(2, 3)
    once = block(inputs, inputs)
    canonical = check(randomize(keras.Model(inputs, block(once, once))), rounding=1e-5)
    assert sum(isinstance(layer, L.Dense) for layer in canonical.layers) == 4
    assert sum(isinstance(layer, MatMul) for layer in canonical.layers) == 4


def test_masks_that_all_samples_share():
    inputs = keras.Input((T, F))
    layer = L.MultiHeadAttention(2, 3)
    causal = layer(inputs, inputs, use_causal_mask=True)
    chosen = np.random.default_rng(0).integers(0, 2, (1, T, T)) | np.eye(T, dtype=int)
    some = layer(inputs, inputs, attention_mask=ops.convert_to_tensor(chosen, "bool"))
    check(randomize(keras.Model(inputs, [causal, some])), rounding=1e-4)


@pytest.mark.parametrize("dtype", ["int32", "bool", "float32"])
def test_masks_that_are_inputs(dtype):
    inputs, mask = keras.Input((T, F)), keras.Input((T,), dtype=dtype)
    outputs = L.MultiHeadAttention(2, 3)(
        inputs, inputs, attention_mask=ops.cast(mask, "bool")[:, None]
    )
    model = randomize(keras.Model([inputs, mask], outputs))
    generator = np.random.default_rng(0)
    samples = generator.normal(size=(5, T, F)).astype("float32")
    given = (np.arange(T) < generator.integers(1, T, size=(5, 1))).astype("float32")
    prove(model, prepare(model), [samples, given])
    if dtype != "bool":
        with pytest.raises(UnsupportedLayerError, match="differs from the model once prepared"):
            prove(model, prepare(model), [samples, 2 * given])


WORDS = 11
MASKS = {
    "not equal": lambda ids: ops.not_equal(ids, 0),
    "of the number": lambda ids: ops.less(0, ids),
    "two of them": lambda ids: (ids > 0) & (ids != 3),
    "either": lambda ids: (ids >= 5) | ops.equal(ids, 2),
    "what it is not": lambda ids: ops.logical_not(ops.equal(ids, 0)),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("is_causal", [False, True])
def test_masks_of_tokens(name, is_causal):
    ids = keras.Input((T,), dtype="int32")
    x = L.Embedding(WORDS, F)(ids)
    outputs = L.MultiHeadAttention(2, 3)(
        x, x, attention_mask=MASKS[name](ids)[:, None], use_causal_mask=is_causal
    )
    model = randomize(keras.Model(ids, outputs))
    samples = np.random.default_rng(0).integers(0, WORDS, size=(9, T))
    canonical = prepare(model)
    prove(model, canonical, [samples])
    # The proof sees masks: without one it fails.
    unmasked = keras.Model(ids, L.MultiHeadAttention(2, 3)(x, x))
    unmasked.set_weights(model.get_weights())
    with pytest.raises(UnsupportedLayerError, match="differs from the model once prepared"):
        prove(unmasked, canonical, [samples])


def test_equal_masks_of_tokens_have_one_table():
    ids = keras.Input((T,), dtype="int32")
    x = L.Embedding(WORDS, F)(ids)
    for _ in range(3):
        mask = ops.cast(ids != 0, "float32")[:, :, None]
        x = L.Dense(F)(x) * mask
    canonical = prepare(randomize(keras.Model(ids, x)))
    assert sum(isinstance(layer, Lookup) for layer in canonical.layers) == 2


def test_numbers_that_no_embedding_reads_are_values():
    ids, x = keras.Input((T,), dtype="int32"), keras.Input((T,))
    model = keras.Model([ids, x], x * ops.cast(ids > 3, "float32"))
    generator = np.random.default_rng(0)
    samples = [generator.integers(0, 9, size=(6, T)), generator.normal(size=(6, T))]
    canonical = prepare(model)
    assert not any(isinstance(layer, Lookup) for layer in canonical.layers)
    prove(model, canonical, samples)


def test_masks_that_keras_hands_on_unseen_are_refused():
    ids = keras.Input((T,), dtype="int32")
    x = L.Embedding(WORDS, F, mask_zero=True)(ids)
    model = randomize(keras.Model(ids, L.MultiHeadAttention(2, 3)(x, x)))
    samples = np.random.default_rng(0).integers(0, WORDS, size=(9, T))
    with pytest.raises(UnsupportedLayerError, match="give it attention_mask="):
        prove(model, prepare(model), [samples])
