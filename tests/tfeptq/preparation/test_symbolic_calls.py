"""Layers of Keras beside functions of TensorFlow in one `call`: they stay what they are."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from tests.tfeptq.preparation.canonical_check import assert_same, check
from tfeptq.preparation import as_functional, prepare
from tfeptq.preparation.tensorflow_graphs import read_by

T, H, W, C = 7, 6, 5, 4

#: Rank of a sample -> layers whose own graphs hold operators that no table has.
LAYERS = {
    (T, C): {
        "attention": lambda: Attention(L.MultiHeadAttention(2, 3)),
        "grouped attention": lambda: Attention(L.GroupQueryAttention(3, 2, 1)),
        "recurrent": lambda: L.LSTM(3, return_sequences=True),
        "unrolled": lambda: L.GRU(3, unroll=True, return_sequences=True),
        "both ways": lambda: L.Bidirectional(L.SimpleRNN(2, return_sequences=True)),
        "time": lambda: L.TimeDistributed(L.Dense(3)),
        "causal": lambda: L.Conv1D(3, 2, padding="causal", dilation_rate=2),
        "groups": lambda: L.Conv1D(6, 3, groups=2),
    },
    (H, W, C): {
        "dilated": lambda: L.Conv2D(3, 2, dilation_rate=2),
        "dilated depthwise": lambda: L.DepthwiseConv2D(3, padding="same", dilation_rate=2),
        "separable": lambda: L.SeparableConv2D(3, 2, dilation_rate=2),
        "grouped": lambda: L.Conv2D(6, 3, groups=2),
        "transposed": lambda: L.Conv2DTranspose(3, 2, dilation_rate=2),
        "augmentation": lambda: L.RandomFlip(),
    },
}
CASES = [(shape, name) for shape, layers in LAYERS.items() for name in layers]


class Attention(L.Layer):
    """Reads one tensor twice."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        return self.layer(x, x)


class Beside(keras.Model):
    """A layer between functions of TensorFlow."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.ends = layer, L.Dense(2)

    def call(self, x):
        y = self.layer(tf.nn.relu6(x + 1.0))
        y = tf.concat([y, tf.math.tanh(y)], axis=-1)
        return self.ends(tf.reduce_mean(y, axis=1))


@pytest.mark.parametrize(("shape", "name"), CASES)
def test_layers_are_read_beside_functions(shape, name):
    keras.utils.set_random_seed(0)
    model = Beside(LAYERS[shape][name]())
    model(np.zeros((2, *shape), "float32"), training=False)
    found = as_functional(model)
    samples = np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")
    expected = model(samples, training=False)
    assert_same(found(samples, training=False), expected)
    check(found)


class Positions(L.Layer):
    """As many text models of Keras begin."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions = L.Embedding(9, C), L.Embedding(T, C)

    def call(self, x):
        places = tf.range(start=0, limit=tf.shape(x)[-1], delta=1)
        return self.tokens(x) + self.positions(places)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_embeddings_beside_functions_take_tokens_of_either_type(dtype):
    inputs = keras.Input((T,), dtype=dtype)
    model = keras.Model(inputs, L.Dense(2)(Positions()(inputs)))
    tokens = np.random.default_rng(0).integers(0, 9, (3, T)).astype(dtype)
    assert_same(prepare(model)(tokens), model(tokens))


def test_einsum_takes_letters_of_either_case():
    class Product(L.Layer):
        def call(self, x):
            return tf.einsum("BTC,BSC->BTS", x, x) + tf.einsum("Btc,Bsc->Bts", x, x)

    inputs = keras.Input((T, C))
    check(keras.Model(inputs, L.Dense(2)(Product()(inputs))))


def test_only_what_is_being_read_takes_symbolic_tensors():
    """The dispatcher of TensorFlow is still there, and is asked by nothing else."""
    asked = []
    inputs = keras.Input((T, C))
    with read_by(lambda function, arguments, keywords: asked.append(function.__name__)):
        assert tf.nn.relu(inputs) is None
    assert asked == ["relu"]
    with pytest.raises((TypeError, ValueError), match="KerasTensor cannot be used"):
        tf.nn.relu(inputs)
