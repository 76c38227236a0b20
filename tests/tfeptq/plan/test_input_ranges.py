"""Scales of inputs that the user fixes."""

from __future__ import annotations

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import layers as L

import tfeptq
import tflite_export
from tfeptq.canonical.integer_types import activation_range
from tfeptq.plan.input_ranges import fixed_by_range

BOUNDS = st.floats(-1e6, 1e6, allow_subnormal=False, width=32).filter(
    lambda bound: bound == 0.0 or abs(bound) > 1e-6
)


def pixels(count: int = 32, seed: int = 0) -> np.ndarray:
    """Pictures whose brightest pixels are rare."""
    values = np.random.default_rng(seed).normal(100, 30, (count, 8, 7, 3))
    values[:, 0, 0] = 255
    return np.clip(np.round(values), 0, 255).astype("float32")


def classifier() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 7, 3), name="pixels")
    x = L.Rescaling(1 / 255)(inputs)
    x = L.Conv2D(6, 3, activation="relu")(x)
    return keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x)))


@hypothesis.given(BOUNDS, BOUNDS, st.sampled_from([4, 5, 8, 16]))
def test_both_ends_and_zero_are_held_by_the_finest_scale(first, second, bits):
    low, high = min(first, second), max(first, second)
    hypothesis.assume(low < high)
    scale, zero_point = fixed_by_range((low, high), bits)
    lowest, highest = activation_range(bits)
    assert scale == np.float32(scale)
    assert lowest <= zero_point <= highest
    # Half a step beyond the last code is still rounded to it; float32 itself is coarser.
    slack = 1e-6 * max(abs(low), abs(high))
    assert (lowest - zero_point) * scale <= min(low, 0.0) + slack
    assert (highest - zero_point) * scale >= max(high, 0.0) - slack
    if bits == 16:
        assert zero_point == 0
        return
    # An integer zero point costs at most one step of the range.
    finest = (max(high, 0.0) - min(low, 0.0)) / (highest - lowest)
    assert scale <= finest * (highest - lowest) / (highest - lowest - 1) * (1 + 1e-6)


def test_pixels_are_their_own_codes():
    assert fixed_by_range((0, 255), 8) == (1.0, -128)
    assert fixed_by_range((0, 1), 8) == (float(np.float32(1 / 255)), -128)
    scale, zero_point = fixed_by_range((-1, 1), 8)
    assert scale * (127 - zero_point) >= 1


@pytest.mark.parametrize("rounding", ["nearest", "eptq"])
def test_training_leaves_a_fixed_range(tmp_path, rounding):
    config = tfeptq.QuantizationConfig(
        input_range=(0, 255), rounding=rounding, steps=5, batch_size=8, samples=32
    )
    quantized = tfeptq.quantize(classifier(), pixels(), config)
    quantized.save(tmp_path / "m.keras")
    loaded = tfeptq.load_model(tmp_path / "m.keras")
    tflite_export.export(loaded, tmp_path / "m.tflite")
    (tensor,) = (
        t for t in tflite_export.inspect(tmp_path / "m.tflite").tensors if t.name == "pixels"
    )
    assert (tensor.scale, tensor.zero_point) == (1.0, -128)
    # Bytes are moved by 128 and need no scale: pixels above 241 are not cut.
    integers = (pixels().astype(np.int16) - 128).astype(np.int8)
    file = tmp_path / "m.tflite"
    of_bytes = tflite_export.run(file, integers, runtime="reference")
    of_floats = tflite_export.run(file, pixels(), runtime="reference")
    made = loaded.freeze().tensors[tflite_export.inspect(file).outputs[0]].quantization
    shifted = of_bytes.astype(np.float64) - made.zero_point
    np.testing.assert_allclose(shifted * made.scale, of_floats, rtol=1e-6)


def test_one_input_of_several_is_fixed():
    inputs = [keras.Input((5,), name=name) for name in ("left", "right")]
    model = keras.Model(inputs, L.Dense(3)(L.Concatenate()(inputs)))
    data = np.random.default_rng(0).uniform(0, 9, (2, 32, 5)).astype("float32")
    config = tfeptq.QuantizationConfig(
        input_range={"right": (0, 10)}, rounding="nearest", samples=32
    )
    graph = tfeptq.quantize(model, tuple(data), config).freeze()
    assert graph.tensors["right"].quantization.scale == np.float32(10 / 255)
    assert graph.tensors["left"].quantization.scale < np.float32(9.1 / 255)


def test_candidates_of_activations_keep_it():
    budget = tfeptq.Budget(activation_bytes=1200)
    config = tfeptq.QuantizationConfig(
        input_range=(0, 255),
        weight_bits=(4, 8),
        activation_bits=(8, 16),
        budget=budget,
        rounding="nearest",
        threshold="mse",
        samples=32,
    )
    graph = tfeptq.quantize(classifier(), pixels(), config).freeze()
    tensor = graph.tensors["pixels"]
    expected = 1.0 if tensor.dtype == "int8" else 255 / 32767
    assert tensor.quantization.scale == np.float32(expected)


@pytest.mark.parametrize(
    "value", [(0,), (1, 0), (0, 0), (0, np.nan), (0, np.inf), "0 255", 255, {"x": 3}, {1: (0, 1)}]
)
def test_ranges_that_hold_nothing_are_refused(value):
    with pytest.raises(ValueError, match="input_range"):
        tfeptq.QuantizationConfig(input_range=value)


def test_settings_survive_being_stored():
    config = tfeptq.QuantizationConfig(input_range={"pixels": (0, 255)})
    assert tfeptq.QuantizationConfig.from_config(config.get_config()) == config


def test_unknown_inputs_are_refused_before_samples_are_read():
    config = tfeptq.QuantizationConfig(input_range={"pixel": (0, 255)})
    with pytest.raises(ValueError, match=r"'pixel'.*did you mean 'pixels'"):
        tfeptq.quantize(classifier(), iter(()), config)


@pytest.mark.parametrize(
    ("bounds", "message"), [((0, 100), "cuts them"), ((0, 1e5), "in one unit")]
)
def test_samples_of_another_unit_are_noticed(bounds, message):
    config = tfeptq.QuantizationConfig(
        input_range=bounds, rounding="nearest", threshold="mse", samples=32
    )
    with pytest.warns(UserWarning, match=f"input 'pixels'.*{message}"):
        quantized = tfeptq.quantize(classifier(), pixels(), config)
    assert any(message in warning for warning in quantized.report.warnings)
