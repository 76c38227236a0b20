"""Bias correction removes the mean shift of every channel, as far as it is not chance."""

from __future__ import annotations

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tfeptq import small_models
from tfeptq.calibrate import bias_correction
from tfeptq.calibrate.bias_correction import correct_biases, is_enough, without_chance
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.config import QuantizationConfig
from tfeptq.pipeline import quantize
from tfeptq.preparation import prepare

CONFIG = QuantizationConfig(
    weight_bits=2, first_last_bits=None, rounding="nearest", bias_correction=False, samples=32
)


def sample_means(model, data):
    """Layer name -> (N, C), over the positions of each sample."""
    tensors = LayerGraph.of(model).execute([data])
    return {
        key[0]: np.asarray(value, np.float64).mean(axis=tuple(range(1, value.ndim - 1)))
        for key, value in tensors.items()
    }


class Uncorrected:
    """A quantized model before its scales are final: no imitation of a kernel's rounding.

    Attributes:
        canonical: its float model.
    """

    def __init__(self, model, data, **settings):
        self.canonical = prepare(model)
        self._quantized = quantize(model, data, dataclasses.replace(CONFIG, **settings))
        for layer in self._quantized.weighted_layers:
            layer.grid.assign(np.zeros(layer.grid.shape))
        self._weights = self._quantized.get_weights()

    def anew(self):
        """The quantized model, with no bias corrected."""
        self._quantized.set_weights(self._weights)
        return self._quantized


@functools.cache
def residual():
    return Uncorrected(small_models.residual_network(), small_models.images(32))


def assert_is_chance(shifts, slack):
    """Of rows that are samples: a standard error in the mean over the channels, three in none."""
    error = shifts.std(axis=0, ddof=1) / np.sqrt(len(shifts))
    left = np.maximum(np.abs(shifts.mean(axis=0)) - slack, 0.0)
    assert np.all(left <= 3.0 * error)
    assert np.sum(np.square(left)[error > 0] / np.square(error[error > 0])) <= np.sum(error > 0)


def test_mean_pre_activations_come_within_a_standard_error_of_the_float_model():
    data = small_models.images(32)
    canonical, quantized = residual().canonical, residual().anew()
    shifts = correct_biases(quantized, canonical, [data])
    after, expected = sample_means(quantized, data), sample_means(canonical, data)
    assert max(np.abs(shift).max() for shift in shifts.values()) > 0.01
    for layer in quantized.weighted_layers:
        assert_is_chance(after[layer.name] - expected[layer.name], slack=2e-5)


def test_correcting_twice_finds_nothing_more():
    data = small_models.images(32)
    canonical, quantized = residual().canonical, residual().anew()
    correct_biases(quantized, canonical, [data])
    again = correct_biases(quantized, canonical, [data])
    assert max(np.abs(shift).max() for shift in again.values()) < 2e-5


def corrected_chance(seed, counts):
    """Mean squares of raw shifts and of what is corrected, of layers whose true shifts are zero."""
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(64, name="first"), keras.layers.Dense(64, name="second")]
    model = keras.Sequential([keras.Input((24,)), *layers])
    # Inputs without a mean have none of what any linear map, rounded or not, makes of them.
    samples = np.random.default_rng(seed).normal(size=(max(counts), 24)).astype("float32")
    start = Uncorrected(model, samples, samples=len(samples))
    for data in (samples[:count] for count in counts):
        quantized = start.anew()
        wanted, found = sample_means(start.canonical, data), sample_means(quantized, data)
        shifts = correct_biases(quantized, start.canonical, [data])
        raw = [found[layer.name] - wanted[layer.name] for layer in quantized.weighted_layers]
        square = np.mean([np.square(shift.mean(axis=0)).mean() for shift in raw])
        yield square, np.mean([np.square(shift).mean() for shift in shifts.values()])


@pytest.mark.parametrize("seed", [0, 1])
def test_what_chance_gives_is_hardly_corrected_and_less_of_more_samples(seed):
    found = list(corrected_chance(seed, (16, 64, 256)))
    assert all(corrected < 0.35 * chance for chance, corrected in found)
    assert found[2][1] < 0.2 * found[0][0]


def test_samples_in_any_order_have_the_same_shifts():
    data, start = small_models.images(32), residual()
    orders = np.arange(32), np.random.default_rng(0).permutation(32)
    found = [correct_biases(start.anew(), start.canonical, [data[order]]) for order in orders]
    for name, shift in found[0].items():
        # Sums of float32 in another order, through three layers.
        np.testing.assert_allclose(found[1][name], shift, atol=5e-6)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**16),
    size=st.integers(2, 9),
    means=st.lists(st.sampled_from([0.0, 1e-3, 0.3, -5.0]), min_size=1, max_size=7),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_the_shrunk_mean_is_between_zero_and_the_mean(seed, size, means, scale):
    rows = np.random.default_rng(seed).normal(means, 1.0, size=(size, len(means)))
    rows = (scale * rows).astype("float32")
    found = without_chance(tf.constant(rows), size).numpy()
    average = rows.astype(np.float64).mean(axis=0)
    assert np.all(found * average >= 0.0)
    assert np.all(np.abs(found) <= np.abs(average) + 1e-6 * scale)
    assert_is_chance(rows - found.astype(np.float64), slack=1e-5 * scale)
    # As a part of ever more samples it stands for a mean that is known.
    known = without_chance(tf.constant(rows), 10**12).numpy()
    # Float32: a mean of at most -5, of nine rows.
    np.testing.assert_allclose(known, average, atol=5e-6 * scale)


def test_a_channel_that_is_shifted_is_corrected_where_the_others_are_not():
    rows = np.random.default_rng(0).normal(size=(32, 40))
    rows[:, 7] += 5.0
    rows[:, 8] = 0.25  # The same in all samples.
    found = without_chance(tf.constant(rows, tf.float32), 32).numpy()
    average = rows.mean(axis=0)
    np.testing.assert_allclose(found[7:9], average[7:9], rtol=0.01)
    others = np.delete(np.arange(40), [7, 8])
    assert np.sum(np.square(found[others])) < 0.1 * np.sum(np.square(average[others]))


def test_a_single_sample_is_taken_as_it_is():
    rows = np.array([[0.5, -2.0, 0.0]], np.float32)
    np.testing.assert_array_equal(without_chance(tf.constant(rows), 1), rows[0])


@pytest.mark.parametrize("bits", [2, 3])
def test_it_lowers_the_error_of_the_output(bits):
    model, data = small_models.short_network(), small_models.images(64)
    expected = model.predict(data, verbose=0)
    errors = []
    for correction in (False, True):
        config = dataclasses.replace(CONFIG, weight_bits=bits, bias_correction=correction)
        found = quantize(model, data[:32], config).predict(data, verbose=0)
        errors.append(float(np.square(found - expected).mean()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize(("bits", "least", "most"), [(8, 32, 48), (2, 48, 64)])
def test_samples_are_taken_until_chance_is_little_beside_what_no_bias_takes_away(
    bits, least, most, monkeypatch
):
    data = small_models.images(256)
    start = Uncorrected(small_models.residual_network(), data, weight_bits=bits, samples=256)
    canonical = start.canonical
    monkeypatch.setattr(bias_correction, "passing_batch", lambda *_: 16)
    shifts, chance_share = [], bias_correction._CHANCE
    for chance in (chance_share, 0.0):
        monkeypatch.setattr(bias_correction, "_CHANCE", chance)
        quantized = start.anew()
        shifts.append(correct_biases(quantized, canonical, [data]))
        used = quantized.report.samples["bias correction"]
        assert used == 256 if chance == 0.0 else least <= used <= most
    steps, wanted = bias_correction._output_steps(quantized), sample_means(canonical, data)
    left = sample_means(quantized, data)
    for name, shift in shifts[0].items():
        spread = np.var(left[name] - wanted[name], axis=0).mean()
        moved = np.square(shift - shifts[1][name]).mean()
        # Chance, in this layer and in those before it, and what is shrunk.
        assert moved < 3.0 * chance_share * (spread + steps[name] ** 2 / 12.0)


@pytest.mark.parametrize("step", [0.0, 1.0, 30.0])
def test_chance_is_at_most_the_share_that_is_allowed(step):
    """Of every number of samples, by the definition: spread / n against spread + step^2 / 12."""
    rows = np.random.default_rng(0).normal(size=(200, 400)).astype("float32")
    enough = [is_enough({"layer": [rows[:n]]}, {"layer": step}) for n in range(2, 200)]
    least = 2 + enough.index(True)
    assert all(enough[least - 2 :])
    exact = 1.0 / (bias_correction._CHANCE * (1.0 + step**2 / 12.0))
    # The next whole number; and the spread of 400 channels is known to 1 % of at most 50.
    assert least == pytest.approx(max(exact, 2.0), abs=1.5)


def test_one_sample_is_never_enough():
    rows = {"layer": [np.zeros((1, 4), "float32")]}
    assert not is_enough(rows, {"layer": 1.0})
    assert is_enough({"layer": 2 * rows["layer"]}, {"layer": 1.0})
