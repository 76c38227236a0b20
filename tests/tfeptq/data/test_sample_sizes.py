"""Models that leave sizes open take those of the samples."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import tfeptq
from tests.tfeptq.batches import Batches
from tfeptq.data.later import Later
from tfeptq.data.sample_sizes import sizes_of

IMAGES = np.random.default_rng(0).normal(size=(12, 9, 7, 3)).astype("float32")
OPEN = [(None, None, 3)]
CONFIG = tfeptq.QuantizationConfig(rounding="nearest", samples=8)
PARTS = [IMAGES[begin : begin + 4] for begin in range(0, 12, 4)]
FORMS = {
    "array": IMAGES,
    "list of one": [IMAGES],
    "dictionary": {"image": IMAGES},
    "tensor": tf.constant(IMAGES),
    "later": Later(lambda: IMAGES),
    "batches": Batches(PARTS),
    "labelled batches": Batches([(part, np.zeros(4)) for part in PARTS]),
    "dataset": tf.data.Dataset.from_tensor_slices(IMAGES).batch(5),
    "labelled dataset": tf.data.Dataset.from_tensor_slices((IMAGES, np.zeros(12))).batch(5),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_samples_says_its_sizes(form):
    assert sizes_of(FORMS[form], OPEN) == (9, 7, 3)


def test_what_does_not_fit_or_cannot_be_looked_into_says_nothing():
    assert sizes_of(IMAGES[..., :2], OPEN) is None
    assert sizes_of(IMAGES[0], OPEN) is None
    assert sizes_of((batch for batch in [IMAGES]), OPEN) is None
    assert sizes_of([IMAGES], [*OPEN, (None,)]) is None


def test_sizes_of_several_inputs():
    several = [*OPEN, (None,)]
    assert sizes_of((IMAGES, IMAGES[:, 0, 0]), several) == [(9, 7, 3), (3,)]
    named = {"row": IMAGES[:, 0, 0], "image": IMAGES}
    assert sizes_of(named, several) == {"row": (3,), "image": (9, 7, 3)}
    assert sizes_of(((IMAGES, IMAGES) for _ in range(2)), several) is None


def network(shape=(None, None, 3)):
    inputs = keras.Input(shape, name="image")
    x = L.Conv2D(4, 3, activation="relu")(inputs)
    return keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x)))


def test_a_network_of_any_size():
    quantized = tfeptq.quantize(network(), IMAGES, CONFIG)
    assert quantized.inputs[0].shape == (None, 9, 7, 3)


def test_a_subclassed_network_of_any_size():
    class Network(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv, self.head = L.Conv2D(4, 3), L.Conv2D(2, 1)

        def build(self, shape):
            self.conv.build(shape)
            self.head.build((None, None, None, 4))

        def call(self, x):
            return self.head(keras.ops.relu(self.conv(x)))

    model = Network()
    model.build((None, None, None, 3))
    model.built = True
    assert tfeptq.quantize(model, IMAGES, CONFIG).inputs[0].shape == (None, 9, 7, 3)


def test_given_sizes_come_first_and_generators_need_them():
    generator = (batch for batch in [IMAGES])
    with pytest.raises(ValueError, match="give input_shape="):
        tfeptq.quantize(network(), generator, CONFIG)
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=8, input_shape=(8, 8, 3))
    with pytest.raises(ValueError, match=r"expected \(samples, 8, 8, 3\)"):
        tfeptq.quantize(network(), IMAGES, config)
