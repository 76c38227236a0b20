"""Thresholds by the error of a layer's output, against what layers compute."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

import tfeptq
from tests.tfeptq import small_models
from tfeptq.canonical import linear
from tfeptq.preparation import prepare
from tfeptq.rounding.gptq import damped
from tfeptq.rounding.layerwise import float_moments
from tfeptq.rounding.thresholds import looks_at, suited_grid

KINDS = {
    "dense": lambda: L.Dense(5, name="layer"),
    "convolution": lambda: L.Conv2D(4, (3, 2), strides=2, padding="same", name="layer"),
    "depthwise": lambda: L.DepthwiseConv2D((2, 3), depth_multiplier=2, name="layer"),
    "transposed": lambda: L.Conv2DTranspose(3, 3, strides=2, padding="same", name="layer"),
}


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.integers(2, 4),
    st.booleans(),
    st.integers(0, 1000),
)
def test_no_other_step_loses_less_of_the_output(kind, bits, per_channel, seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 5, 3))
    model = prepare(keras.Model(inputs, KINDS[kind]()(inputs)))
    generator = np.random.default_rng(seed)
    # Inputs that go together: errors of their weights add up.
    mixing = generator.normal(size=(3, 3))
    data = (generator.normal(size=(32, 6, 5, 3)) @ mixing).astype("float32")
    layer = model.get_layer("layer")
    [(_, moments)] = float_moments(model, [data], count=32, is_centered=True)
    # With the search's own prior that weights stay.
    covariance = damped(moments.covariance())
    settings = {"grid": "uniform", "bits": bits, "per_channel": per_channel}
    found = suited_grid(layer, method="output", covariance=moments.covariance(), **settings)
    weights = np.asarray(layer.kernel)

    def errors(grid):
        lost = linear.by_group(layer, grid.error(weights)).astype(np.float64)
        squares = np.sum(lost * (covariance @ lost), axis=1)
        return squares if per_channel else squares.sum()

    least = errors(found)
    for factor in (1.0, *generator.uniform(0.3, 2.0, 20)):
        for method in ("mse", "max"):
            other = suited_grid(layer, method=method, **settings)
            other = dataclasses.replace(other, step=(other.step * factor).astype("float32"))
            # Few weights make a jagged error, whose dents are narrower than the search's steps.
            assert np.sum(least) <= 1.1 * np.sum(errors(other))


@pytest.mark.parametrize("method", ["output", "hmse", "mse"])
def test_eight_bits_take_the_weights_alone(method):
    assert looks_at(method, 8) == "weights"
    layer = prepare(small_models.residual_network()).get_layer("skip")
    grid = suited_grid(layer, grid="uniform", bits=8, method=method, per_channel=True)
    plain = suited_grid(layer, grid="uniform", bits=8, method="mse", per_channel=True)
    np.testing.assert_array_equal(grid.step, plain.step)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"rounding": "nearest"}, "output"),
        ({"rounding": "optq"}, "hmse"),
        ({"rounding": "eptq"}, "hmse"),
        ({"rounding": "nearest", "threshold": "mse"}, "mse"),
    ],
)
def test_what_suits_the_rounding_stands_for_none(settings, expected):
    assert tfeptq.QuantizationConfig(**settings).clipping == expected


def test_scores_are_computed_only_where_a_layer_looks_at_them(monkeypatch):
    def none(*_, **__):
        raise AssertionError("nobody needs weight scores")

    monkeypatch.setattr("tfeptq.hessian.float_scores.weight_scores", none)
    model, images = small_models.residual_network(), small_models.images(16)
    for changed in ({"rounding": "optq", "weight_bits": 8}, {"rounding": "nearest"}):
        config = tfeptq.QuantizationConfig(samples=16, **{"weight_bits": 3, **changed})
        tfeptq.quantize(model, images, config)
