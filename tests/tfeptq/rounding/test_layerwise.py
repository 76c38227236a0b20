"""Layer by layer: what each layer is fitted to, and what that leaves of the network's output."""

from __future__ import annotations

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from tests.tfeptq import small_models
from tfeptq.canonical import linear
from tfeptq.canonical.integer_types import weight_range
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.canonical.walk import Walk
from tfeptq.config import QuantizationConfig
from tfeptq.model import QuantizedModel
from tfeptq.pipeline import quantize
from tfeptq.preparation import prepare
from tfeptq.rounding.input_moments import InputMoments

H, W, C, K = 9, 7, 3, 5
CONFIG = QuantizationConfig(weight_bits=3, first_last_bits=None, rounding="optq", samples=64)


def layers():
    return {
        "convolution": L.Conv2D(K, (2, 3), strides=(2, 1), padding="same"),
        "dilated": L.Conv2D(K, (3, 2), dilation_rate=(1, 2)),
        "depthwise": L.DepthwiseConv2D((3, 2), padding="same"),
        "multiplied": L.DepthwiseConv2D((2, 3), depth_multiplier=2),
        "dense": L.Dense(K),
    }


@pytest.mark.parametrize("name", layers())
def test_columns_times_weights_are_the_layers_output(name):
    layer, inputs = layers()[name], tf.constant(small_models.images(4))
    expected = layer(inputs)
    kernel = np.random.default_rng(0).normal(size=layer.kernel.shape).astype("float32")
    columns, weights = linear.input_columns(layer, inputs), linear.by_group(layer, kernel)
    by_group = np.asarray(columns) @ weights
    found = np.moveaxis(by_group, 0, 1).reshape(expected.shape)
    np.testing.assert_allclose(
        found, linear.linear_operation(layer, inputs, kernel), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_array_equal(linear.from_groups(layer, weights), kernel)


def test_moments_are_those_of_all_batches_together():
    layer, inputs = L.DepthwiseConv2D((3, 2)), small_models.images(12)
    layer.build(inputs.shape)
    moved = inputs + small_models.images(12, seed=5)
    batches, moved_batches = (
        [tf.constant(part) for part in np.split(each, 3)] for each in (inputs, moved)
    )
    found = InputMoments.of(layer, moved_batches, batches)
    x, y = (np.asarray(linear.input_columns(layer, tf.constant(e)), float) for e in (moved, inputs))
    for group in range(C):
        both = np.cov(x[group].T, y[group].T, bias=True)
        np.testing.assert_allclose(found.covariance[group], both[:6, :6], atol=1e-5)
        np.testing.assert_allclose(found.cross[group], both[:6, 6:], atol=1e-5)
    np.testing.assert_allclose(found.mean[:, 0], x.mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(found.float_mean[:, 0], y.mean(axis=1), atol=1e-5)


def test_many_positions_are_thinned_out_without_favouring_columns():
    layer, inputs = L.Conv2D(2, 1), np.zeros((2, 40, 30, 1), "float32")
    layer.build(inputs.shape)
    inputs[..., 0] = np.arange(30)
    found = InputMoments.of(layer, [tf.constant(inputs)])
    # A stride of 5 would see six columns of thirty: 12.5 and 72.9.
    assert found.mean[0, 0, 0] == pytest.approx(14.5, abs=0.02)
    assert found.covariance[0, 0, 0] == pytest.approx(np.var(np.arange(30)), rel=2e-3)


def test_a_walk_computes_what_an_execution_does_and_forgets_what_was_read():
    model, data = prepare(small_models.residual_network()), small_models.images(6)
    graph = LayerGraph.of(model)
    walk = Walk(graph, [[tf.constant(data[:2])], [tf.constant(data[2:])]])
    expected = graph.execute([data])
    for call in reversed(graph.calls[:4]):
        parts = walk[call.output]
        np.testing.assert_allclose(np.concatenate(parts), expected[call.output], atol=1e-5)
        walk = Walk(graph, [[tf.constant(data[:2])], [tf.constant(data[2:])]])
    for key in graph.outputs:
        np.testing.assert_allclose(np.concatenate(walk[key]), expected[key], atol=1e-5)
    with pytest.raises(KeyError):
        walk[graph.inputs[0]]


@functools.cache
def rounded(**settings) -> QuantizedModel:
    """A residual network; all tests read the same one of the same settings."""
    config = dataclasses.replace(CONFIG, **settings)
    return quantize(small_models.residual_network(), small_models.images(64), config)


# With 4 bits the activations' 8 bits lose as much as the weights here.
@pytest.mark.parametrize("bits", [2, 3])
def test_it_loses_less_than_nearest_rounding(bits):
    data = small_models.images(192)[64:]
    wanted = small_models.residual_network().predict(data, verbose=0)

    def error(rounding):
        found = rounded(weight_bits=bits, rounding=rounding).predict(data, verbose=0)
        return float(np.square(found - wanted).mean())

    assert error("optq") < error("nearest")


def channel_means(model, data):
    tensors = LayerGraph.of(model).execute([data])
    return {
        key[0]: np.asarray(value).mean(axis=tuple(range(value.ndim - 1)))
        for key, value in tensors.items()
    }


def test_means_are_those_of_the_float_model(monkeypatch):
    # Folding would round biases to integers.
    monkeypatch.setattr(QuantizedModel, "fold", lambda self: None)
    model, data = small_models.residual_network(), small_models.images(64)
    quantized = quantize(model, data, CONFIG)
    found, expected = channel_means(quantized, data), channel_means(prepare(model), data)
    for layer in quantized.weighted_layers:
        np.testing.assert_allclose(found[layer.name], expected[layer.name], atol=2e-5)


def test_without_bias_correction_biases_stay():
    quantized = rounded(bias_correction=False)
    canonical = prepare(small_models.residual_network())
    for layer in quantized.weighted_layers:
        unit = layer.scales().max()
        bias = canonical.get_layer(layer.name).bias
        np.testing.assert_allclose(layer.layer.bias, bias, atol=float(unit))


def test_pooled_moments_are_those_of_all_calls_together():
    layer = L.Dense(K)
    calls = [small_models.images(6, seed=seed) + seed for seed in (1, 2)]
    layer.build(calls[0].shape)
    moved = [each + small_models.images(6, seed=9) for each in calls]
    pairs = [([tf.constant(x)], [tf.constant(y)]) for x, y in zip(moved, calls, strict=True)]
    found = InputMoments.pooled([InputMoments.of(layer, x, y) for x, y in pairs])
    together = [[tf.concat([part[0] for part in side], 0)] for side in zip(*pairs, strict=True)]
    expected = InputMoments.of(layer, *together)
    for name in ("covariance", "cross", "mean", "float_mean"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-4)
    raw = InputMoments.of(layer, *together, is_centered=False)
    np.testing.assert_allclose(found.uncentered().cross, raw.cross, atol=1e-4)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_shared_layer_is_fitted_to_all_its_calls(swapped):
    """Each call has inputs of its own in common use: fitted to one, the other would be lost."""
    keras.utils.set_random_seed(0)
    first, second = keras.Input((24,), name="first"), keras.Input((24,), name="second")
    shared = L.Dense(8, name="shared")
    ends = [second, first] if swapped else [first, second]
    ends = [shared(end) for end in ends]
    model = keras.Model([first, second], ends[::-1] if swapped else ends)
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(2, 4, 24)) * np.repeat(np.eye(2), 12, axis=1)[:, None]
    data = tuple((generator.normal(size=(256, 4)) @ each).astype("float32") for each in mixing)
    errors = {}
    for rounding in ("nearest", "optq"):
        config = dataclasses.replace(CONFIG, samples=256, rounding=rounding, threshold="mse")
        found = quantize(model, data, config).predict(list(data), verbose=0)
        expected = model.predict(list(data), verbose=0)
        errors[rounding] = [np.square(f - e).mean() for f, e in zip(found, expected, strict=True)]
    for nearest, optq in zip(*errors.values(), strict=True):
        assert optq < 0.5 * nearest


def test_eptq_starts_from_it_between_the_neighbours_of_float_weights(monkeypatch):
    monkeypatch.setattr(QuantizedModel, "fold", lambda self: None)
    model, data = small_models.short_network(), small_models.images(64)
    settings = {"steps": 1, "learning_rate": 1e-9, "rounding_learning_rate": 1e-9}
    config = dataclasses.replace(CONFIG, rounding="eptq", **settings)
    differing = []
    starts = (
        quantize(model, data, dataclasses.replace(config, initial_rounding=r))
        for r in ("optq", "nearest")
    )
    for layer, nearest in zip(*(start.weighted_layers for start in starts), strict=True):
        scaled = layer.float_kernel / np.asarray(layer.step)
        low, high = weight_range(3)
        inside = (scaled > low) & (scaled < high)
        assert np.abs(layer.integers() - scaled)[inside].max() < 1.0 + 1e-6
        differing.append(np.mean(layer.integers() != nearest.integers()))
    assert 0.05 < max(differing) < 0.5


def test_the_same_seed_gives_the_same_integers():
    first = rounded(weight_bits=3, rounding="optq")
    second = quantize(small_models.residual_network(), small_models.images(64), CONFIG)
    for one, other in zip(first.weighted_layers, second.weighted_layers, strict=True):
        np.testing.assert_array_equal(one.integers(), other.integers())


@pytest.mark.parametrize("spread", [0.0, 0.01])
def test_inputs_far_from_zero_that_hardly_vary_are_rounded(spread):
    """Squares of float32 values leave nothing of such a variance, and matrices of no inverse."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((40,)), L.Dense(K), L.ReLU(), L.Dense(2)])
    data = (1000.0 + spread * np.random.default_rng(0).normal(size=(64, 40))).astype("float32")
    found = InputMoments.of(model.layers[0], [tf.constant(data)])
    expected = np.cov(data.astype(np.float64).T, bias=True)
    np.testing.assert_allclose(found.covariance[0], expected, atol=1e-5 * spread**2 + 1e-12)
    raw = InputMoments.of(model.layers[0], [tf.constant(data)], is_centered=False)
    second = data.T.astype(np.float64) @ data / len(data)
    np.testing.assert_allclose(raw.covariance[0], second, rtol=1e-6)
    quantized = quantize(model, data, CONFIG)
    assert np.all(np.isfinite(quantized.predict(data, verbose=0)))
