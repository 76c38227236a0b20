"""Random copies of calibration samples: which they are, and that they are the same every time."""

from __future__ import annotations

import random
import warnings

import keras
import numpy as np
import pytest

import tfeptq
from tests.tfeptq import small_models
from tfeptq.data.augmentation import with_copies
from tfeptq.data.samples import take, take_samples

SHAPE = (5, 7, 3)
IMAGES = np.random.default_rng(0).normal(size=(30, *SHAPE)).astype("float32")
COUNT = 101


def flip() -> keras.Layer:
    return keras.layers.RandomFlip("horizontal")


def translation() -> keras.Layer:
    return keras.layers.RandomTranslation(0.0, 0.9, fill_mode="wrap", interpolation="nearest")


def test_copies_are_those_of_their_origins():
    (found,) = with_copies([IMAGES], flip(), count=COUNT, seed=3)
    sources = IMAGES[np.arange(COUNT) % len(IMAGES)]
    is_same, is_flipped = (
        np.all(found == each, axis=(1, 2, 3)) for each in (sources, sources[:, :, ::-1])
    )
    assert np.all(is_same | is_flipped)
    # All 30 as they are, and about half of 71.
    assert 30 + 20 < is_same.sum() < 30 + 51


def test_first_samples_are_a_mixture():
    inputs = [keras.Input(SHAPE, name="image")]
    taken = take(
        IMAGES, inputs, samples=3000, seed=0, augmentation=flip(), labels=np.arange(len(IMAGES))
    )
    counts = np.bincount(taken.labels)
    assert (counts.min(), counts.max(), len(counts)) == (100, 100, 30)
    sources = taken.labels[:300]
    assert len(np.unique(sources)) == 30
    is_flipped = np.any(taken.arrays[0][:300] != IMAGES[sources], axis=(1, 2, 3))
    assert 0.4 < is_flipped.mean() < 0.6


def test_the_order_of_the_samples_changes_neither_copies_nor_labels():
    inputs, labels = [keras.Input(SHAPE, name="image")], np.arange(len(IMAGES))
    settings = {"samples": COUNT, "seed": 3, "augmentation": translation()}
    expected = take(IMAGES, inputs, labels=labels, **settings)
    backwards = take(IMAGES[::-1], inputs, labels=labels[::-1], **settings)
    np.testing.assert_array_equal(expected.arrays[0], backwards.arrays[0])
    np.testing.assert_array_equal(expected.labels, backwards.labels)


def test_the_seed_decides_and_nothing_else_changes():
    layer = keras.Sequential([flip(), translation()])
    random.seed(1)
    before = random.getstate()
    (first,) = with_copies([IMAGES], layer, count=COUNT, seed=3)
    assert random.getstate() == before
    assert not layer.built
    random.seed(2)
    layer(IMAGES, training=True)
    (second,) = with_copies([IMAGES], layer, count=COUNT, seed=3)
    np.testing.assert_array_equal(first, second)
    (other,) = with_copies([IMAGES], layer, count=COUNT, seed=4)
    assert np.any(np.sort(first, axis=0) != np.sort(other, axis=0))


@keras.saving.register_keras_serializable(package="test")
class Together(keras.layers.Layer):
    """Adds the same number to both inputs of a sample."""

    def call(self, inputs, training=False):
        left, right = inputs
        return left + 1000.0, right + 1000.0


def test_several_inputs_stay_aligned():
    extra = IMAGES[:, 0, 0, :1] * np.ones(4, "float32")
    images, others = with_copies([IMAGES, extra], Together(), count=COUNT, seed=0)
    np.testing.assert_array_equal(images[:, 0, 0, 0], others[:, 0])
    assert (others[:, 0] > 900).sum() == COUNT - len(IMAGES)


def test_samples_and_labels_stay_together():
    inputs = [keras.Input(SHAPE, name="image")]
    for count in (11, 30, COUNT):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            taken = take(
                IMAGES,
                inputs,
                samples=count,
                seed=3,
                augmentation=flip(),
                labels=IMAGES.sum((1, 2, 3)),
            )
        # Mirrored, they keep their sum.
        np.testing.assert_allclose(taken.arrays[0].sum((1, 2, 3)), taken.labels, atol=1e-4)
        assert len(taken.labels) == count


def test_nothing_to_fill_up_is_a_warning():
    inputs = [keras.Input(SHAPE, name="image")]
    with pytest.warns(UserWarning, match="not used: calibration holds the 20 samples"):
        take_samples(IMAGES, inputs, samples=20, seed=0, augmentation=flip())


@keras.saving.register_keras_serializable(package="test")
class Broken(keras.layers.Layer):
    def call(self, inputs, training=False):
        return inputs / 0.0


BAD = {
    "shape": (keras.layers.RandomCrop(4, 4), r"makes \[\(64, 4, 4, 3\)\] of \[\(64, 5, 7, 3\)\]"),
    "rank": (keras.Sequential([keras.layers.Flatten(), flip()]), "cannot take batches of shape"),
    "inputs": (Together(), "cannot take batches"),
    "NaN": (Broken(), "NaN or infinity"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_a_sample_is_refused(name):
    layer, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        with_copies([IMAGES], layer, count=COUNT, seed=0)


def test_configuration_checks_and_round_trips():
    with pytest.raises(ValueError, match="augmentation='flip' must be a Keras layer"):
        tfeptq.QuantizationConfig(augmentation="flip")
    config = tfeptq.QuantizationConfig(augmentation=keras.Sequential([flip()]))
    again = tfeptq.QuantizationConfig.from_config(config.get_config())
    assert again.augmentation.layers[0].mode == "horizontal"
    assert again.get_config() == config.get_config()


def test_every_stage_sees_the_copies_and_the_same_seed_gives_the_same_integers():
    model, images = small_models.residual_network(), small_models.images(16)
    config = tfeptq.QuantizationConfig(
        weight_bits=3, steps=3, samples=40, batch_size=8, augmentation=translation()
    )
    kernels = [_integers(tfeptq.quantize(model, images, config)) for _ in range(2)]
    for left, right in zip(*kernels, strict=True):
        np.testing.assert_array_equal(left, right)
    # As if somebody had made the copies before.
    taken = take_samples(images, model.inputs, samples=16, seed=0)
    copies = with_copies(taken, translation(), count=40, seed=0)
    plain = tfeptq.QuantizationConfig(weight_bits=3, steps=3, samples=40, batch_size=8)
    for left, right in zip(
        kernels[0], _integers(tfeptq.quantize(model, copies, plain)), strict=True
    ):
        np.testing.assert_array_equal(left, right)


def _integers(quantized: tfeptq.QuantizedModel) -> list[np.ndarray]:
    return [layer.integers() for layer in quantized.weighted_layers]


def test_the_callback_makes_copies_once():
    model, images = small_models.residual_network(), small_models.images(16)
    model.compile("sgd", "sparse_categorical_crossentropy")
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=40, augmentation=translation())
    callback = tfeptq.QuantizationCallback(images, config)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(images, np.zeros(16), verbose=0, callbacks=[callback])
    expected = tfeptq.quantize(model, images, config)
    for left, right in zip(_integers(callback.quantized), _integers(expected), strict=True):
        np.testing.assert_array_equal(left, right)
    ranges = [
        [quantizer.parameters() for quantizer in each.activation_quantizers]
        for each in (callback.quantized, expected)
    ]
    assert ranges[0] == ranges[1]
