"""Streamed activation statistics."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.tfeptq import small_models
from tfeptq.calibrate import ranges as calibration
from tfeptq.calibrate.histograms import Histogram
from tfeptq.calibrate.ranges import (
    best_range,
    calibration_histograms,
    squared_errors,
    tensor_histograms,
)
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.preparation import prepare


def test_streamed_histograms_count_every_value():
    model, data = prepare(small_models.residual_network()), small_models.images(32)
    keys = {"stem": [("stem_relu", 0)], "both": [("sum_relu", 0), ("pool", 0)]}
    every = [key for members in keys.values() for key in members]
    streamed = tensor_histograms(model, [data], every, batch_size=8)
    found = {
        name: Histogram.pooled([streamed[key] for key in members]) for name, members in keys.items()
    }
    tensors = LayerGraph.of(model).execute([data])
    for name, members in keys.items():
        values = np.concatenate([np.asarray(tensors[key]).reshape(-1) for key in members])
        assert found[name].counts.sum() == values.size
        assert found[name].minimum == pytest.approx(values.min(), abs=1e-5)
        assert found[name].maximum == pytest.approx(values.max(), rel=1e-5)
        mean = (found[name].centers * found[name].counts).sum() / values.size
        assert mean == pytest.approx(values.mean(), abs=float(values.max()) / 1000)


def test_histograms_of_concatenations_are_those_of_their_inputs():
    model, data = prepare(small_models.residual_network()), small_models.images(16)
    found = calibration_histograms(model, [data])["joined", 0]
    expected = Histogram.of(LayerGraph.of(model).execute([data])["joined", 0])
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert (found.minimum, found.maximum) == (expected.minimum, expected.maximum)


def test_of_large_tensors_every_channel_is_counted_evenly(monkeypatch):
    """17 samples of 13 x 12 positions and 4 channels, one in five values counted."""
    monkeypatch.setattr(calibration, "_COUNTED", 17 * 13 * 12)
    monkeypatch.setattr(calibration, "_COUNTED_IN_SAMPLE", 1)
    model = keras.Sequential([keras.Input((13, 12, 4), name="image"), keras.layers.ReLU()])
    samples = np.random.default_rng(0).uniform(size=(17, 13, 12, 4)).astype("float32")
    samples += np.arange(4, dtype="float32")
    samples[16, 3, 5, 2] = 9.0
    found = calibration_histograms(prepare(model), [samples])["image", 0]
    assert (found.minimum, found.maximum) == (samples.min(), 9.0)
    by_channel = [found.counts[found.centers.astype(int) == channel].sum() for channel in range(4)]
    # 31 or 32 of 156 positions a channel, five times each.
    np.testing.assert_allclose(by_channel, samples.size / 4, rtol=0.04)
    mean = (found.centers * found.counts).sum() / found.counts.sum()
    assert mean == pytest.approx(samples.mean(), rel=0.02)
    for permuted in (samples[::-1], samples[np.random.default_rng(1).permutation(17)]):
        again = calibration_histograms(prepare(model), [permuted])["image", 0]
        np.testing.assert_array_equal(again.counts, found.counts)


def test_a_model_that_overflows_is_refused_by_layer():
    layers = [keras.layers.Dense(3, name="huge"), keras.layers.Dense(2, name="twice")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    for layer in layers:
        layer.set_weights([np.full(layer.kernel.shape, 1e30), np.zeros(layer.bias.shape)])
    with pytest.raises(ValueError, match="layer 'twice' computes NaN or infinity"):
        calibration_histograms(prepare(model), [np.ones((33, 4), "float32")])


def test_outliers_are_clipped_where_that_pays():
    values = np.concatenate([np.random.default_rng(0).uniform(0, 1, 1_000_000), [4.0]])
    low, high = best_range(Histogram.of(values), bits=8)
    assert low == 0.0
    assert 0.95 < high < 2.0


def test_the_range_is_as_good_as_a_grid():
    values = np.random.default_rng(0).laplace(size=50_000)
    data = Histogram.of(values)
    chosen = np.array([best_range(data, bits=8)])
    fractions = np.linspace(0.2, 1, 60)
    lows, highs = np.meshgrid(data.minimum * fractions, data.maximum * fractions)
    counts = data.counts.astype(np.float64)
    grid = squared_errors(data.centers, lows.ravel(), highs.ravel(), bits=8) @ counts
    found = squared_errors(data.centers, chosen[:, 0], chosen[:, 1], bits=8) @ counts
    assert found[0] <= grid.min() * 1.05


@pytest.mark.parametrize("kind", ["normal", "laplace", "gumbel"])
def test_ranges_hold_for_values_that_were_not_seen(kind):
    """Beside those that fit best what was seen: the squared error of 20 draws, of new values."""
    new = np.abs(getattr(np.random.default_rng(99), kind)(size=20_000))
    fractions, ours, best = np.linspace(0.2, 1, 81), [], []
    for seed in range(20):
        drawn = Histogram.of(np.abs(getattr(np.random.default_rng(seed), kind)(size=10_000)))
        highs = drawn.maximum * fractions
        counts = drawn.counts.astype(np.float64)
        seen = squared_errors(drawn.centers, 0.0 * highs, highs, bits=8) @ counts
        chosen = np.array([best_range(drawn, bits=8)[1], highs[np.argmin(seen)]])
        errors = squared_errors(new, 0.0 * chosen, chosen, bits=8) @ np.ones(new.size)
        ours.append(errors[0])
        best.append(errors[1])
    assert np.mean(ours) < np.mean(best)


def test_sixteen_bits_are_never_clipped():
    data = Histogram.of(np.array([-1.0, 0.0, 0.5, 100.0]))
    assert best_range(data, bits=16) == (-1.0, 100.0)
