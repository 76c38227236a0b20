"""What a quantization says about lost quality, and when it is silent."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

import tfeptq
from tests.tfeptq import small_models
from tfeptq.data import memory
from tfeptq.data.memory import fitting_batch
from tfeptq.preparation import prepare
from tfeptq.report import nearness
from tfeptq.report.nearness import tensor_cosine, tensor_nearness, tensor_sqnr
from tfeptq.report.quality import LEAST_CODES

NEAREST = {"rounding": "nearest", "threshold": "mse", "samples": 32}


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 6, 5, 3)).astype("float32")


def joined() -> keras.Model:
    """Boxes in pixels beside scores."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 5, 3))
    boxes = L.Rescaling(100.0)(L.Conv2D(2, 1, name="boxes")(inputs))
    scores = L.Activation("sigmoid")(L.Conv2D(3, 1, name="scores")(inputs))
    return keras.Model(inputs, [L.Concatenate(name="head")([boxes, scores]), L.Dense(2)(scores)])


def test_lost_channels_are_named_with_the_layer_and_ways_out():
    with pytest.warns(UserWarning, match=r"output 'head'.*channels 2, 3, 4.*layer 'head'"):
        quantized = tfeptq.quantize(joined(), images(80), tfeptq.QuantizationConfig(**NEAREST))
    (sentence,) = quantized.report.warnings
    assert "unequal ranges" in sentence
    assert "activation_bits=16" in sentence
    quality = quantized.report.quality
    assert (quality.samples, quality.is_held_back) == (32, True)
    head, other = quality.outputs
    assert max(head.channel_codes[2:]) < LEAST_CODES < min(head.channel_codes[:2])
    assert min(head.channel_sqnr[:2]) > 25
    assert other.sqnr > 25
    assert head.cosine > 0.999


def test_the_ways_out_are_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        config = tfeptq.QuantizationConfig(**NEAREST, activation_bits=16)
        quantized = tfeptq.quantize(joined(), images(40), config)
    assert min(quantized.report.quality.outputs[0].channel_sqnr) > 25


def test_shares_that_vanish_are_not_blamed_on_the_join_behind_them():
    """Where a keypoint is on a line and across it: sums over places, weighted by a softmax."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((700, 2), name="image")
    shares = keras.ops.softmax(L.Dense(3, name="heat")(inputs), axis=1)
    places = np.linspace(0.0, 1.0, 700, dtype="float32")[:, None]
    ends = [keras.ops.sum(shares * each, axis=1) for each in (places, 3.0 * places**2)]
    model = keras.Model(inputs, keras.ops.stack(ends, axis=-1))
    samples = np.random.default_rng(0).normal(0.0, 0.1, (33, 700, 2)).astype("float32")
    with pytest.warns(UserWarning, match=r"lost in layer '\w*softmax\w*', whose shares are"):
        tfeptq.quantize(model, samples, tfeptq.QuantizationConfig(**NEAREST))


def test_a_good_model_is_silent_and_measured_on_what_is_left():
    model = small_models.residual_network()
    data = small_models.images(40)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        quantized = tfeptq.quantize(model, data, tfeptq.QuantizationConfig(**NEAREST))
    quality = quantized.report.quality
    assert (quality.samples, quality.is_held_back) == (8, True)
    assert quality.outputs[0].agreement is not None
    assert set(quality.layers) > {"stem", "sum", "joined"}


def test_few_samples_that_are_left_are_too_few():
    """On one sample most channels keep one code, and no signal is seen to vary."""
    model = small_models.residual_network()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        config = tfeptq.QuantizationConfig(**NEAREST)
        quantized = tfeptq.quantize(model, small_models.images(33), config)
    quality = quantized.report.quality
    assert (quality.samples, quality.is_held_back) == (32, False)


def test_large_images_are_measured_in_one_batch_that_fits(monkeypatch):
    model = small_models.residual_network()
    assert fitting_batch(model, 32, copies=2) == 32
    monkeypatch.setattr(memory, "BATCH_BYTES", 2 * 5 * sum(memory._tensor_bytes(prepare(model))))
    quantized = tfeptq.quantize(
        model, small_models.images(64), tfeptq.QuantizationConfig(**NEAREST)
    )
    quality = quantized.report.quality
    assert (quality.samples, quality.is_held_back) == (5, True)
    assert quality.outputs[0].values == 5
    # Five values are no reason to call a channel lost.
    assert quantized.report.warnings == []


def test_the_ratio_of_a_layer_is_the_definition_in_any_unit():
    generator = np.random.default_rng(0)
    for size in (1e-15, 1e-5, 1.0, 1e30):
        signal = generator.normal(3.0, 2.0, (4, 6, 7, 5)).astype("float32")
        found = signal + generator.normal(0.0, 0.1, signal.shape).astype("float32")
        expected = 10 * np.log10(signal.var() / np.square(signal - found).mean())
        scaled = [tf.constant(array * np.float32(size)) for array in (signal, found)]
        if size < 1e-6:
            # Nothing varies that could be lost.
            assert tensor_sqnr(*scaled) == np.inf
        else:
            assert tensor_sqnr(*scaled) == pytest.approx(expected, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 200),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e30]),
    st.sampled_from([0.0, 1e-3, 0.5, 40.0]),
    st.sampled_from([0.0, 3.0, -100.0]),
    st.integers(0, 99),
)
def test_both_measures_of_nearness_are_those_taken_alone(size, unit, spread, mean, seed):
    generator = np.random.default_rng(seed)
    signal = generator.normal(mean, 1.0, size) * generator.choice([0.0, 1.0, 1.0, 1.0])
    found = signal + spread * generator.normal(size=size)
    pair = [tf.constant(np.float32(unit) * array.astype("float32")) for array in (signal, found)]
    ratio, angle = tensor_nearness(*pair)
    assert ratio == pytest.approx(tensor_sqnr(*pair), abs=0.02)
    assert angle == pytest.approx(tensor_cosine(*pair), abs=1e-5)


def test_of_large_tensors_some_values_of_every_channel_tell(monkeypatch):
    monkeypatch.setattr(nearness, "ENOUGH_VALUES", 2**14)
    generator = np.random.default_rng(0)
    signal = generator.normal(size=(32, 64, 64, 2)).astype("float32")
    # All of the error is in one channel, which a stride of an even number would see alone or never.
    noise = generator.normal(size=signal.shape).astype("float32") * np.float32([0.1, 0.0])
    pair = tf.constant(signal), tf.constant(signal + noise)
    # Some 8192 values of a channel: their energy is known to sqrt(2 / 8192), .07 dB; four of these.
    assert tensor_nearness(*pair)[0] == pytest.approx(tensor_sqnr(*pair), abs=0.3)
    assert tensor_nearness(*pair)[1] == pytest.approx(tensor_cosine(*pair), abs=1e-3)


def test_with_nothing_left_calibration_samples_are_measured():
    config = tfeptq.QuantizationConfig(**{**NEAREST, "samples": 16})
    quantized = tfeptq.quantize(small_models.residual_network(), small_models.images(16), config)
    quality = quantized.report.quality
    assert (quality.samples, quality.is_held_back) == (16, False)
