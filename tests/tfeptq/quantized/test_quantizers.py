"""Fake quantization against integer arithmetic."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tfeptq.canonical.integer_types import weight_range
from tfeptq.quantized import quantizers


@given(low=st.floats(-1e3, 0), high=st.floats(0, 1e3), bits=st.integers(4, 8))
def test_zero_is_exactly_representable(low, high, bits):
    scale, zero_point = quantizers.asymmetric_parameters(low, high, bits=bits)
    lowest = 128 - 2**bits
    assert lowest <= zero_point <= 127
    # Every bound is met to within half a step beyond the rounding of the zero point.
    assert (127 - zero_point) * scale >= high - scale * 1.001
    assert (lowest - zero_point) * scale <= low + scale * 1.001


@given(
    low=st.floats(-10, 0),
    high=st.floats(0.1, 10),
    bits=st.integers(4, 7),
    seed=st.integers(0, 99),
)
def test_narrow_activations_use_the_highest_codes_of_int8(low, high, bits, seed):
    layer = quantizers.ActivationQuantizer(bits)
    values = np.random.default_rng(seed).normal(0, 5, (3, 5)).astype("float32")
    layer.build(values.shape)
    layer.set_range(low, high)
    scale, zero_point = layer.parameters()
    codes = np.asarray(layer(values)) / scale + zero_point
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)
    assert 128 - 2**bits <= np.round(codes).min() <= np.round(codes).max() <= 127


def test_sixteen_bits_are_symmetric():
    scale, zero_point = quantizers.asymmetric_parameters(-1.0, 3.0, bits=16)
    assert zero_point == 0
    assert scale == pytest.approx(3.0 / 32767)


def test_relu_ranges_start_at_the_lowest_code():
    assert quantizers.asymmetric_parameters(0.0, 5.1, bits=8)[1] == -128
    assert quantizers.asymmetric_parameters(0.0, 5.1, bits=4)[1] == 112


@given(fraction=st.floats(0, 0.999999))
def test_the_rounding_variable_starts_at_the_fraction(fraction):
    logits = quantizers.rectified_sigmoid_inverse(np.array(fraction))
    assert float(quantizers.rectified_sigmoid(logits)) == pytest.approx(fraction, abs=1e-5)
    assert (logits >= 0) == (fraction >= 0.5)


def test_fake_quantization_is_integer_arithmetic():
    values = np.random.default_rng(0).normal(size=(3, 5, 7)).astype("float32") * 3
    found = quantizers.fake_quantize(values, scale=0.03, zero_point=-20.0, low=-128, high=127)
    codes = np.clip(np.round(values / np.float32(0.03)) - 20, -128, 127)
    np.testing.assert_allclose(found, (codes + 20) * 0.03, rtol=1e-5, atol=1e-6)


def test_gradients_of_the_scale_are_those_of_lsq():
    values, scale = tf.constant([0.26, -0.9, 100.0, -100.0]), tf.Variable(0.1)
    with tf.GradientTape() as tape:
        tape.watch(values)
        output = quantizers.fake_quantize(values, scale=scale, zero_point=0.0, low=-8, high=7)
        total = tf.reduce_sum(output)
    by_value, by_scale = tape.gradient(total, [values, scale])
    np.testing.assert_allclose(by_value, [1, 0, 0, 0], atol=1e-6)
    # Inside: round(v) - v; outside: the bound. -9 lies below -8.
    assert float(by_scale) == pytest.approx((3 - 2.6) - 8 + 7 - 8, abs=1e-4)


def test_eight_bit_weights_are_narrow():
    assert weight_range(8) == (-127, 127)
    assert weight_range(2) == (-2, 1)


def test_the_float_share_blends_and_folding_ends_it():
    layer = quantizers.ActivationQuantizer(8)
    values = np.array([[0.24, 0.5]], "float32")
    layer.build(values.shape)
    layer.set_range(0.0, 51.0)
    quantized = np.asarray(layer(values))
    layer.float_share.assign(0.25)
    np.testing.assert_allclose(layer(values), 0.25 * values + 0.75 * quantized, rtol=1e-6)
    layer.log_scale.assign(0.1)
    before = float(layer.base_scale.numpy()) * np.exp(0.1 * layer.scale_unit)
    layer.fold()
    assert float(layer.parameters()[0]) == pytest.approx(before)
    assert float(layer.float_share.numpy()) == 0.0


def test_fixed_parameters_refuse_a_range():
    layer = quantizers.ActivationQuantizer(8, (1 / 256, -128), name="soft")
    layer.build((1, 2))
    with pytest.raises(ValueError, match="'soft' has fixed parameters"):
        layer.set_range(0.0, 1.0)


def test_quantizers_serialise():
    layer = quantizers.ActivationQuantizer(16, (0.5, 0), name="q")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert (again.bits, again.fixed, again.name) == (16, (0.5, 0), "q")


@pytest.mark.parametrize(("bits", "unit"), [(4, 1.0), (6, 0.25), (8, 1 / 16), (16, 2.0**-12)])
def test_scales_of_many_codes_are_learned_in_small_units(bits, unit):
    layer = quantizers.ActivationQuantizer(bits)
    layer.build((None, 3))
    layer.set_range(-1.0, 1.0)
    scale = layer.parameters()[0]
    layer.log_scale.assign(0.5)
    values = scale * np.exp(0.5 * unit) * np.arange(3, dtype="float32")
    np.testing.assert_allclose(layer(values), values, rtol=1e-5)
    layer.fold()
    assert layer.parameters()[0] == pytest.approx(scale * np.exp(0.5 * unit), rel=1e-6)


def test_quantizers_that_were_saved_before_there_were_units_have_one():
    config = quantizers.ActivationQuantizer(8).get_config()
    del config["scale_unit"]
    assert quantizers.ActivationQuantizer.from_config(config).scale_unit == 1.0
