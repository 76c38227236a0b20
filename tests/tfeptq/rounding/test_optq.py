"""Rounding that makes up for its own errors: against nearest rounding, the optimum, and itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfeptq.canonical.integer_types import weight_range
from tfeptq.quantized.uniform_grid import UniformGrid
from tfeptq.rounding import gptq as optq

GROUPS, K, CHANNELS = 3, 7, 4


def covariance(groups=GROUPS, size=K, seed=0, samples=200):
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(groups, size, size))
    inputs = generator.normal(size=(groups, samples, size)) @ mixing
    return np.swapaxes(inputs, 1, 2) @ inputs / samples


def weights(groups=GROUPS, size=K, channels=CHANNELS, seed=1):
    return np.random.default_rng(seed).normal(size=(groups, size, channels))


def steps(bits, channels=CHANNELS, groups=GROUPS):
    spread = np.random.default_rng(2).uniform(0.8, 1.2, size=(groups, 1, channels))
    return 2.5 * spread / 2 ** (bits - 1)


def output_error(errors, of):
    """Mean squared error of every channel's output, (groups, channels)."""
    return np.einsum("gkc,gkl,glc->gc", errors, optq.damped(of), errors)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_uncorrelated_inputs_of_one_strength_give_nearest_rounding(bits):
    values, grid = weights(), steps(bits)
    identity = np.broadcast_to(np.eye(K), (GROUPS, K, K))
    found = optq.compensated_integers(values, UniformGrid(bits, grid), identity)
    np.testing.assert_array_equal(found, np.clip(np.round(values / grid), *weight_range(bits)))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_integers_stay_in_range_and_lose_less_than_the_nearest_ones(bits):
    values, grid, of = weights(size=40), steps(bits), covariance(size=40)
    low, high = weight_range(bits)
    found = optq.compensated_integers(values, UniformGrid(bits, grid), of)
    nearest = np.clip(np.round(values / grid), low, high)
    assert found.min() >= low
    assert found.max() <= high
    np.testing.assert_array_equal(found, np.round(found))
    losses = [output_error(each * grid - values, of).sum() for each in (found, nearest)]
    assert losses[0] < 0.7 * losses[1]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_around_float_weights_only_their_two_neighbours_are_taken(bits):
    values, grid, of = weights(size=40), steps(bits), covariance(size=40)
    targets = values + 0.3 * weights(size=40, seed=9)
    found = optq.compensated_integers(targets, UniformGrid(bits, grid), of, around=values)
    below = np.floor(values / grid)
    low, high = weight_range(bits)
    assert np.all((found == np.clip(below, low, high)) | (found == np.clip(below + 1, low, high)))
    free = optq.compensated_integers(targets, UniformGrid(bits, grid), of)
    assert np.any(free != found)
    nearest = np.clip(np.round(values / grid), low, high)
    losses = [output_error(each * grid - targets, of).sum() for each in (free, found, nearest)]
    assert losses == sorted(losses)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 1000))
def test_what_errors_change_is_the_factor_of_the_inverse(groups, size, seed):
    of = optq.damped(covariance(groups, size, seed))
    upper = np.swapaxes(np.linalg.cholesky(np.linalg.inv(of)), 1, 2)
    expected = upper / np.diagonal(upper, axis1=1, axis2=2)[:, :, None]
    np.testing.assert_allclose(np.triu(optq._feedback(of)), np.triu(expected), atol=1e-9)


def test_two_correlated_weights_reach_the_optimum():
    """The error of the first is known when the second is rounded: nothing better exists here."""
    values, grid = np.array([[[0.4], [0.4]]]), np.ones((1, 1, 1))
    of = np.array([[[1.0, 0.95], [0.95, 1.0]]])
    found = optq.compensated_integers(values, UniformGrid(3, grid), of)
    choices = [
        np.array(pair).reshape(1, 2, 1) for pair in itertools.product(range(-4, 4), repeat=2)
    ]
    best = min(output_error(choice - values, of).sum() for choice in choices)
    assert output_error(found - values, of).sum() == pytest.approx(best)
    assert found.sum() == 1.0  # nearest rounding has 0


def test_groups_and_channels_do_not_mix():
    values, grid, of = weights(), steps(3), covariance()
    whole = optq.compensated_integers(values, UniformGrid(3, grid), of)
    for group, channel in itertools.product(range(GROUPS), range(CHANNELS)):
        part = (slice(group, group + 1), slice(None), slice(channel, channel + 1))
        alone = optq.compensated_integers(
            values[part], UniformGrid(3, grid[part]), of[group : group + 1]
        )
        np.testing.assert_array_equal(alone, whole[part])


def test_blocks_change_nothing(monkeypatch):
    values, grid, of = weights(size=50), steps(3), covariance(size=50)
    monkeypatch.setattr(optq, "_BLOCK", 7)
    small = optq.compensated_integers(values, UniformGrid(3, grid), of)
    monkeypatch.setattr(optq, "_BLOCK", 50)
    np.testing.assert_array_equal(
        optq.compensated_integers(values, UniformGrid(3, grid), of), small
    )


def test_the_order_of_the_weights_does_not_matter():
    values, grid, of = weights(), steps(3), covariance()
    permutation = np.random.default_rng(3).permutation(K)
    found = optq.compensated_integers(
        values[:, permutation], UniformGrid(3, grid), of[:, permutation][:, :, permutation]
    )
    expected = optq.compensated_integers(values, UniformGrid(3, grid), of)
    np.testing.assert_array_equal(found, expected[:, permutation])


def test_inputs_that_never_vary_are_rounded_to_nearest():
    values, grid = weights(), steps(4)
    found = optq.compensated_integers(values, UniformGrid(4, grid), np.zeros((GROUPS, K, K)))
    np.testing.assert_array_equal(found, np.clip(np.round(values / grid), -8, 7))
