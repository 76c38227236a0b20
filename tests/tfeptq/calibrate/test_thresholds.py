"""Weight thresholds: identities that a wrong axis or reduction cannot satisfy."""

from __future__ import annotations

import numpy as np
import pytest

from tfeptq.calibrate.thresholds import fitted_rows, weighted_error
from tfeptq.quantized.uniform_grid import UniformGrid

GENERATOR = np.random.default_rng(0)
WEIGHTS = (GENERATOR.normal(size=(5, 21)) ** 3).astype("float32")
SCORES = GENERATOR.uniform(0.01, 4.0, WEIGHTS.shape).astype("float32")


def weight_steps(weights, scores, **settings) -> np.ndarray:
    """Of uniform integers, one a channel."""
    return fitted_rows(weights, scores, kind=UniformGrid, **settings).step.reshape(-1)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_unit_scores_give_the_plain_squared_error(bits):
    unit = weight_steps(WEIGHTS, np.ones_like(WEIGHTS), bits=bits, method="hmse")
    plain = weight_steps(WEIGHTS, None, bits=bits, method="mse")
    np.testing.assert_array_equal(unit, plain)


def test_every_channel_is_chosen_on_its_own():
    together = weight_steps(WEIGHTS, SCORES, bits=3, method="hmse")
    alone = [
        weight_steps(WEIGHTS[c : c + 1], SCORES[c : c + 1], bits=3, method="hmse")[0]
        for c in range(len(WEIGHTS))
    ]
    np.testing.assert_array_equal(together, alone)


def test_scores_count_only_relative_to_each_other():
    factors = np.array([[0.1], [1], [3], [10], [100]], "float32")
    steps = weight_steps(WEIGHTS, SCORES, bits=3, method="hmse")
    scaled = weight_steps(WEIGHTS, SCORES * factors, bits=3, method="hmse")
    np.testing.assert_allclose(steps, scaled, rtol=1e-5)


def test_scaling_a_channel_scales_its_step():
    steps = weight_steps(WEIGHTS, SCORES, bits=4, method="hmse")
    doubled = weight_steps(2 * WEIGHTS, SCORES, bits=4, method="hmse")
    np.testing.assert_allclose(doubled, 2 * steps, rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_search_is_as_good_as_a_fine_grid(bits):
    steps = weight_steps(WEIGHTS, SCORES, bits=bits, method="hmse").astype(np.float64)
    found = weighted_error(WEIGHTS, SCORES, UniformGrid(bits, steps[:, None]))
    largest = np.abs(WEIGHTS).max(axis=1) / 2 ** (bits - 1)
    grid = [
        weighted_error(WEIGHTS, SCORES, UniformGrid(bits, largest[:, None] * fraction))
        for fraction in np.linspace(0.2, 2.0, 1801)
    ]
    assert np.all(found <= np.min(grid, axis=0) * 1.02)


def test_a_heavy_weight_is_kept():
    weights = np.array([[1.0, 0.1, 0.11, 0.09]], "float32")
    scores = np.array([[1e6, 1.0, 1.0, 1.0]], "float32")
    step = weight_steps(weights, scores, bits=3, method="hmse")[0]
    assert abs(np.clip(np.round(1.0 / step), -4, 3) * step - 1.0) < 0.01


def test_max_keeps_the_largest_weight_exactly():
    steps = weight_steps(WEIGHTS, None, bits=4, method="max")
    np.testing.assert_allclose(steps * 7, np.abs(WEIGHTS).max(axis=1), rtol=1e-6)


def test_one_threshold_for_the_whole_tensor():
    steps = weight_steps(WEIGHTS, SCORES, bits=4, method="hmse", per_channel=False)
    flat = weight_steps(WEIGHTS.reshape(1, -1), SCORES.reshape(1, -1), bits=4, method="hmse")
    assert steps.shape == (1,)
    np.testing.assert_array_equal(steps, flat)


def test_dead_channels_have_a_positive_step():
    weights, scores = WEIGHTS.copy(), SCORES.copy()
    weights[1] = 0
    scores[2] = 0
    steps = weight_steps(weights, scores, bits=4, method="hmse")
    assert np.all(steps > 0)
    assert steps[2] == weight_steps(weights, None, bits=4, method="mse")[2]


def test_missing_scores_are_refused():
    with pytest.raises(ValueError, match="one score a weight"):
        weight_steps(WEIGHTS, None, bits=4, method="hmse")
