"""Few samples: what is chance in them is not learned, what is not chance is."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

from tests.tfeptq import small_models
from tfeptq.config import QuantizationConfig
from tfeptq.pipeline import quantize
from tfeptq.rounding.gptq import damped
from tfeptq.rounding.input_moments import InputMoments, SplitMoments
from tfeptq.rounding.refit import HeldBack, fitted, refitted

GROUPS, K, CHANNELS = 3, 7, 4


def weights(size=K, groups=GROUPS):
    return np.random.default_rng(1).normal(size=(groups, size, CHANNELS))


def moments(inputs, float_inputs):
    """Of arrays (samples, K), one sample a batch."""
    layer = L.Dense(CHANNELS)
    layer.build(inputs.shape)
    batches = ([tf.constant(row[None], tf.float32) for row in x] for x in (inputs, float_inputs))
    return SplitMoments.of(layer, *batches)


def exact(inputs, float_inputs):
    """Of arrays (groups, samples, K), about zero."""
    second, cross = (
        np.swapaxes(inputs, 1, 2) @ each / inputs.shape[1] for each in (inputs, float_inputs)
    )
    zeros = np.zeros((len(inputs), 1, inputs.shape[2]))
    return InputMoments(second, cross, zeros, zeros)


def random_inputs(samples, size=K, seed=4):
    return np.random.default_rng(seed).normal(size=(GROUPS, samples, size))


def test_a_fit_to_the_same_inputs_changes_nothing():
    same = exact(*[random_inputs(200)] * 2)
    found = fitted(weights(), same, ridge=0.02)
    np.testing.assert_allclose(found, weights(), rtol=1e-9, atol=1e-9)


def test_a_fit_undoes_a_linear_change_of_the_inputs():
    float_inputs = random_inputs(300)
    change = np.eye(K) + 0.2 * np.random.default_rng(5).normal(size=(GROUPS, K, K))
    inputs = float_inputs @ change
    found = fitted(weights(), exact(inputs, float_inputs), ridge=1e-12)
    np.testing.assert_allclose(inputs @ found, float_inputs @ weights(), rtol=1e-6, atol=1e-6)


def test_losses_are_what_the_other_half_measures():
    """With the bias of the half that was fitted to, as it ships."""
    generator = np.random.default_rng(6)
    float_inputs = generator.normal(size=(24, K)) + 1.0
    inputs = float_inputs + 0.3 * generator.normal(size=(24, K))
    given, found = weights(groups=1), moments(inputs, float_inputs)
    expected = []
    for half in (0, 1):
        own, other = slice(half, None, 2), slice(1 - half, None, 2)
        new = fitted(given, found.halves[half], ridge=0.15)[0]
        x, y = (each[other] - each[own].mean(axis=0) for each in (inputs, float_inputs))
        errors = [np.square(x @ each - y @ given[0]).mean(axis=0).sum() for each in (new, given[0])]
        expected.append(errors[0] - errors[1])
    losses = HeldBack(given, found.halves).losses(0.15)
    np.testing.assert_allclose(losses, expected, rtol=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 20), st.sampled_from([1e-9, 1.0, 1e6]), st.integers(0, 99))
def test_a_fit_solves_its_normal_equations(groups, size, unit, seed):
    generator = np.random.default_rng(seed)
    inputs, float_inputs = unit * generator.normal(size=(2, groups, 30, size))
    found, given = exact(inputs, float_inputs), weights(size, groups)
    regular = damped(found.covariance, 0.15)
    prior = regular - found.covariance
    expected = np.linalg.solve(regular, (found.cross + prior) @ given)
    np.testing.assert_allclose(fitted(given, found, ridge=0.15), expected, rtol=1e-9, atol=1e-9)


def gain(size, samples, seed, kept=1.0):
    """Squared error on new samples after a fit, in units of that before.

    Args:
        kept: what the inputs keep of their size, beside rounding errors: from this to 1.
    """
    generator = np.random.default_rng(seed)
    float_inputs = generator.normal(size=(samples + 1000, size))
    inputs = float_inputs * np.linspace(kept, 1.0, size)
    inputs += 0.01 * generator.normal(size=inputs.shape)
    given = weights(size=size, groups=1)
    found = refitted(given, moments(inputs[:samples], float_inputs[:samples]))
    wanted = float_inputs[samples:] @ given[0]
    left, right = (np.square(inputs[samples:] @ w[0] - wanted).mean() for w in (found, given))
    return left / right


@pytest.mark.parametrize("samples", [1, 2, 7, 33])
@pytest.mark.parametrize("size", [8, 60])
def test_rounding_errors_of_few_samples_are_not_learned(size, samples):
    """Independent errors say nothing: a fit that always trusted them lost 20 to 100 %."""
    gains = [gain(size, samples, seed) for seed in range(8)]
    assert np.mean(gains) < 1.05
    assert max(gains) < 1.35


@pytest.mark.parametrize("samples", [12, 33])
def test_a_loss_that_all_samples_share_is_made_up_for(samples):
    assert np.mean([gain(8, samples, seed, kept=0.75) for seed in range(4)]) < 0.2


@pytest.mark.parametrize("samples", [7, 40])
def test_correlations_by_chance_are_left_out_and_others_kept(samples):
    generator = np.random.default_rng(samples)
    alone = generator.normal(size=(samples, 60)) * np.linspace(0.1, 3.0, 60)
    found = moments(alone, alone)
    variances = np.diag(np.diag(found.whole.covariance[0]))
    np.testing.assert_allclose(np.diag(found.covariance()[0]), np.diag(variances))
    kept, chance = (each[0] - variances for each in (found.covariance(), found.whole.covariance))
    assert np.linalg.norm(kept) < 0.3 * np.linalg.norm(chance)
    together = generator.normal(size=(samples, 1)) + 0.1 * generator.normal(size=(samples, 60))
    found = moments(together, together)
    np.testing.assert_allclose(found.covariance(), found.whole.covariance, rtol=0.3)


def test_the_scale_of_an_input_does_not_decide_about_correlations():
    inputs = np.random.default_rng(3).normal(size=(20, K))
    inputs[:, 1] = inputs[:, 0] + 0.1 * inputs[:, 1]
    scales = 10.0 ** np.arange(-3, K - 3)
    found, scaled = (moments(each, each).covariance() for each in (inputs, inputs * scales))
    np.testing.assert_allclose(scaled, found * np.outer(scales, scales), rtol=1e-3)


def test_many_samples_are_trusted():
    inputs = np.random.default_rng(3).normal(size=(4000, K)) @ np.random.default_rng(4).normal(
        size=(K, K)
    )
    layer = L.Dense(CHANNELS)
    layer.build(inputs.shape)
    found = SplitMoments.of(layer, [tf.constant(part, tf.float32) for part in np.split(inputs, 8)])
    np.testing.assert_allclose(found.covariance(), found.whole.covariance, rtol=0.02, atol=0.02)


def test_halves_make_the_whole():
    inputs, moved = small_models.images(10), small_models.images(10, seed=5)
    layer = L.DepthwiseConv2D((3, 2))
    layer.build(inputs.shape)
    ends = (np.split(each, [4, 7]) for each in (inputs, moved))
    found = SplitMoments.of(layer, *([tf.constant(part) for part in parts] for parts in ends))
    expected = InputMoments.of(layer, [tf.constant(inputs)], [tf.constant(moved)])
    for name in ("covariance", "cross", "mean", "float_mean"):
        np.testing.assert_allclose(
            getattr(found.whole, name), getattr(expected, name), rtol=1e-4, atol=1e-5
        )


def relative_error(model, samples, test, **settings):
    config = QuantizationConfig(
        samples=len(samples), first_last_bits=None, target="android", **settings
    )
    found = quantize(model, samples, config).predict(test, verbose=0)
    return np.sqrt(np.square(found - model.predict(test, verbose=0)).mean())


@pytest.mark.parametrize("samples", [1, 7, 64])
@pytest.mark.parametrize("bits", [8, 4])
def test_optq_is_as_near_as_nearest_rounding_on_few_samples(samples, bits):
    """Wide layers, few samples: 1.3 to 2 times as far before."""
    keras.utils.set_random_seed(samples)
    model = keras.Sequential(
        [
            keras.Input((6, 5, 3)),
            L.Conv2D(6, 3, padding="same", activation="relu"),
            L.Flatten(),
            L.Dense(12, activation="relu"),
            L.Dense(4),
        ]
    )
    data = np.random.default_rng(samples).normal(size=(samples + 256, 6, 5, 3)).astype("float32")
    errors = [
        relative_error(model, data[:samples], data[samples:], weight_bits=bits, rounding=rounding)
        for rounding in ("optq", "nearest")
    ]
    assert errors[0] < 1.1 * errors[1]
