"""Inverses of numbers that are zero at some places take no codes from those that are read."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import tfeptq
import tflite_export
from tfeptq.calibrate import steep_results

SHAPE = (7, 9, 3)
SAMPLES = np.random.default_rng(0).normal(0, 1, (33, *SHAPE)).astype("float32")
# Padding, and a sample of nothing.
SAMPLES[:, 2:5] = 0.0
SAMPLES[3] = 0.0


def power(x):
    return ops.sum(ops.square(x), axis=-1, keepdims=True)


NORMALIZATIONS = {
    "ours": L.UnitNormalization(),
    "of TensorFlow": L.Lambda(lambda x: tf.math.l2_normalize(x, axis=-1)),
    "over a root": lambda x: x / ops.sqrt(power(x) + 1e-7),
    "times an inverse root": lambda x: x * ops.rsqrt(ops.maximum(power(x), 1e-12)),
    "over a norm": lambda x: x / (ops.norm(x, axis=-1, keepdims=True) + 1e-7),
    "shares": lambda x: x / (ops.sum(x, axis=-1, keepdims=True) + 1e-6),
    "of an instance": lambda x: (
        (x - ops.mean(x, (1, 2), keepdims=True))
        / ops.sqrt(ops.var(x, (1, 2), keepdims=True) + 1e-6)
    ),
    "squashed": lambda x: x * (power(x) / (1.0 + power(x)) / ops.sqrt(power(x) + 1e-7)),
}


def quantized(function, *, nothing_is_steep: bool = False, bits: int = 8):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(6, 1, activation="relu", use_bias=False)(inputs)
    model = keras.Model(inputs, function(x))
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=33, activation_bits=bits)
    with pytest.MonkeyPatch.context() as patch:
        if nothing_is_steep:
            patch.setattr(steep_results, "_STEEP", np.inf)
        return tfeptq.quantize(model, SAMPLES, config, verbose=0)


def quality(*arguments, **settings) -> float:
    return quantized(*arguments, **settings).report.quality.outputs[0].sqnr


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_vectors_of_zeros_are_normalized_beside_others(name, bits, tmp_path):
    found = quantized(NORMALIZATIONS[name], bits=bits)
    assert found.report.quality.outputs[0].sqnr > (12.0 if bits == 8 else 17.0)
    tflite_export.export(found, tmp_path / "m.tflite")


def test_the_results_of_zeros_took_all_codes():
    assert quality(NORMALIZATIONS["over a norm"], nothing_is_steep=True) < 0.0


READ_AS_THEY_ARE = {
    "an output": lambda x: 1.0 / (x + 0.01),
    "a term": lambda x: 1.0 / (x + 0.01) + x,
    "an envelope": lambda x: ops.exp(-x) * ops.mean(x, axis=-1, keepdims=True),
    # Of numbers that are none where the divisor is.
    "a share of a constant": lambda x: (x + 3.0) / (ops.max(x, axis=-1, keepdims=True) + 0.01),
    "its own square": lambda x: ops.square(1.0 / (x + 0.01)),
}


@pytest.mark.parametrize("name", READ_AS_THEY_ARE)
def test_results_that_are_read_keep_their_codes(name):
    function = READ_AS_THEY_ARE[name]
    assert quality(function) == quality(function, nothing_is_steep=True)
