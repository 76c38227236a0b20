"""Wrappers of weighted layers: what they compute is what their integers and scales say."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

from tfeptq.canonical.integer_types import weight_range
from tfeptq.quantized.wrappers import QuantizedPReLU, QuantizedWeights

KINDS = {
    "dense": lambda: L.Dense(3),
    "conv": lambda: L.Conv2D(3, 2, strides=2, padding="same"),
    "depthwise": lambda: L.DepthwiseConv2D(2, depth_multiplier=2),
}
INPUTS = np.random.default_rng(1).normal(size=(2, 5, 4, 6)).astype("float32")


def wrapped(kind: str, *, seed: int = 0, **arguments) -> QuantizedWeights:
    """A wrapper of random weights and biases, built."""
    generator = np.random.default_rng(seed)
    wrapper = QuantizedWeights(KINDS[kind](), **arguments)
    wrapper.build(INPUTS.shape)
    inner = wrapper.layer
    inner.set_weights([generator.normal(size=w.shape) for w in inner.get_weights()])
    return wrapper


def steps_of(wrapper: QuantizedWeights, generator: np.random.Generator) -> np.ndarray:
    """Scales under which some weights are cut and some are not."""
    low, _ = weight_range(wrapper.bits)
    return generator.uniform(1.0, 3.0, wrapper.step.shape) / -low


def by_hand(wrapper: QuantizedWeights) -> np.ndarray:
    """What the plain layer computes with integers times scales; after `fold`."""
    plain = type(wrapper.layer).from_config(wrapper.layer.get_config())
    plain.build(INPUTS.shape)
    kernel = wrapper.integers() * np.asarray(wrapper.step, np.float64)
    plain.set_weights([kernel, np.asarray(wrapper.layer.bias)])
    return np.asarray(plain(INPUTS))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12)
@given(bits=st.integers(2, 8), per_channel=st.booleans(), seed=st.integers(0, 999))
def test_steps_begin_with_the_nearest_integers(kind, bits, per_channel, seed):
    wrapper = wrapped(kind, seed=seed, bits=bits, per_channel=per_channel)
    wrapper.set_step(steps_of(wrapper, np.random.default_rng(seed)))
    exact = wrapper.float_kernel / np.asarray(wrapper.step)
    low, high = weight_range(bits)
    assert np.abs(wrapper.integers() - np.clip(exact, low, high)).max() <= 0.5 + 1e-5
    np.testing.assert_allclose(wrapper(INPUTS), by_hand(wrapper), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(bits=st.integers(2, 8), seed=st.integers(0, 999))
def test_folding_what_was_learned_changes_no_result(kind, bits, seed):
    wrapper, generator = wrapped(kind, seed=seed, bits=bits), np.random.default_rng(seed)
    wrapper.set_step(steps_of(wrapper, generator))
    wrapper.set_units(rounding=0.5, bias=0.1)
    for name in ("rounding", "log_scale", "bias_offset"):
        variable = getattr(wrapper, name)
        variable.assign(variable + generator.normal(size=variable.shape) / 4)
    learned, integers = np.asarray(wrapper(INPUTS)), wrapper.integers()
    for _ in range(2):
        wrapper.fold()
        np.testing.assert_array_equal(wrapper.integers(), integers)
        np.testing.assert_allclose(wrapper(INPUTS), learned, atol=2e-4)
        np.testing.assert_allclose(wrapper(INPUTS), by_hand(wrapper), atol=1e-4)
    assert not np.any(wrapper.log_scale)
    assert not np.any(wrapper.bias_offset)


@settings(max_examples=8)
@given(bits=st.integers(2, 8), seed=st.integers(0, 999))
def test_given_integers_are_taken(bits, seed):
    wrapper, generator = wrapped("dense", seed=seed, bits=bits), np.random.default_rng(seed)
    wrapper.set_step(steps_of(wrapper, generator))
    integers = generator.integers(*weight_range(bits), wrapper.place.shape, endpoint=True)
    wrapper.set_integers(integers)
    np.testing.assert_array_equal(wrapper.integers(), integers)
    # Training starts between the integer and a neighbour towards the weight.
    wrapper.soft_share.assign(1.0)
    soft = np.asarray(wrapper.quantized_kernel()) / np.asarray(wrapper.step)
    assert np.abs(soft - integers).max() <= 0.5


def test_wider_steps_keep_the_weights_nearest():
    wrapper = wrapped("conv", bits=8)
    wrapper.set_step(steps_of(wrapper, np.random.default_rng(0)))
    wrapper.fold()
    before, wider = wrapper.integer_kernel(), 3.0 * np.asarray(wrapper.step)
    wrapper.widen_step(wider)
    assert np.all(np.abs(wrapper.integer_kernel() - before) <= 0.5001 * wider)


@pytest.mark.parametrize("step", [0.0, -1.0, np.nan, np.inf])
def test_steps_that_are_no_scales_are_refused_by_layer(step):
    wrapper = wrapped("dense", name="head")
    with pytest.raises(ValueError, match="layer 'head': weight scales must be positive"):
        wrapper.set_step(np.array([1.0, step, 1.0]))


def test_a_configuration_makes_the_same_wrapper():
    wrapper = wrapped("conv", bits=3, per_channel=False, requantization="twice", calls=2)
    config = keras.saving.serialize_keras_object(wrapper)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == wrapper.get_config()
    assert [w.shape for w in again.weights] == [w.shape for w in wrapper.weights]


def test_calls_of_a_shared_layer_have_biases_of_their_own():
    wrapper = wrapped("dense", calls=2)
    wrapper.set_step(np.full(3, 0.05, np.float32))
    wrapper.fold()
    outputs = np.asarray(wrapper(INPUTS, call_index=0))
    wrapper.snap_bias(np.array([7, 0, -9]), np.float32(0.5), call_index=1)
    np.testing.assert_allclose(wrapper(INPUTS, call_index=0), outputs)
    without = outputs - np.asarray(wrapper.layer.bias)
    biased = np.asarray(wrapper(INPUTS, call_index=1))
    np.testing.assert_allclose(biased, without + np.array([7, 0, -9]) * 0.025, atol=1e-5)


@settings(max_examples=15)
@given(seed=st.integers(0, 999))
def test_slopes_are_eight_bit_integers(seed):
    slopes = np.random.default_rng(seed).normal(size=(1, 1, 6)).astype("float32")
    layer = L.PReLU(shared_axes=[1, 2])
    wrapper = QuantizedPReLU(layer)
    wrapper.build(INPUTS.shape)
    layer.set_weights([slopes])
    stored = wrapper.stored()
    values = stored.codes.reshape(-1) * np.float64(stored.scale)
    assert np.abs(values - slopes.reshape(-1)).max() <= 0.5001 * float(stored.scale[0])
    expected = np.where(INPUTS < 0, INPUTS * values, INPUTS)
    np.testing.assert_allclose(wrapper(INPUTS), expected, atol=1e-5)
