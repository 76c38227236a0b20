"""Networks that answer for every pixel, on the whole road."""

from __future__ import annotations

import functools
import importlib.util

import keras
import numpy as np
import pytest
from keras import layers as L

import tfeptq
import tflite_export
from tfeptq.preparation import prepare

IMAGES = np.random.default_rng(0).uniform(size=(40, 16, 12, 3)).astype("float32")
NEAREST = {"rounding": "nearest", "threshold": "mse", "samples": 32}


def segmenter(*, ends_in: str = "scores") -> keras.Model:
    """A U-Net with dilated branches: up by transposed convolution, bilinear, to any size."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 12, 3), name="image")
    top = L.Conv2D(6, 3, padding="same", activation="relu", name="top")(image)
    low = L.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="low")(top)
    dilated = [
        L.Conv2D(4, 3, padding="same", dilation_rate=rate, activation="relu", name=f"rate{rate}")
        for rate in (2, 3)
    ]
    whole = L.Conv2D(4, 1, name="whole")(L.GlobalAveragePooling2D(keepdims=True)(low))
    whole = L.UpSampling2D((8, 6), interpolation="bilinear")(whole)
    pyramid = L.Concatenate(name="pyramid")([*(layer(low) for layer in dilated), whole])
    up = L.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu", name="up")(pyramid)
    joined = L.Concatenate(name="skip")([up, top])
    scores = L.Conv2D(5, 1, name="scores")(joined)
    scores = L.Resizing(24, 20, name="large")(scores)
    if ends_in == "classes":
        return keras.Model(image, keras.ops.argmax(scores, axis=-1))
    return keras.Model(image, L.Softmax(name="softmax")(scores) if ends_in == "softmax" else scores)


@functools.cache
def float_outputs(ends_in: str) -> np.ndarray:
    return np.asarray(segmenter(ends_in=ends_in)(IMAGES))


def smaller_segmenter() -> keras.Model:
    """One level: down, up by a transposed convolution, to any size, the largest score."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 12, 3), name="image")
    low = L.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="low")(image)
    up = L.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu", name="up")(low)
    scores = L.Resizing(24, 20, name="large")(L.Conv2D(5, 1, name="scores")(up))
    return keras.Model(image, keras.ops.argmax(scores, axis=-1))


def found(quantized: keras.Model, path, runtime: str) -> np.ndarray:
    tflite_export.export(quantized, path)
    return np.asarray(tflite_export.run(path, IMAGES, runtime=runtime))


@pytest.mark.parametrize("target", ["android", "microcontroller"])
def test_a_segmentation_gives_the_number_of_a_class(tmp_path, target):
    if target == "microcontroller" and importlib.util.find_spec("tflite_micro") is None:
        pytest.skip("extra 'microcontroller' is missing")
    config = tfeptq.QuantizationConfig(**NEAREST, target=target)
    quantized = tfeptq.quantize(segmenter(ends_in="classes"), IMAGES, config)
    assert quantized.report.warnings == []
    path = tmp_path / "m.tflite"
    runtime = "litert" if target == "android" else "tflm"
    classes = found(quantized, path, runtime)
    inspection = tflite_export.inspect(path)
    types = {tensor.name: tensor.type for tensor in inspection.tensors}
    assert [types[name] for name in inspection.outputs] == ["int32"]
    assert inspection.operators[-1].kind == "ARG_MAX"
    numbers = np.asarray(quantized(IMAGES))
    # Kernels round by a step differently here and there, where two scores are nearly the same.
    assert np.mean(classes == numbers) > 0.99
    # The same network with its scores, quantized alike, has its largest score there.
    scores = np.asarray(tfeptq.quantize(segmenter(), IMAGES, config)(IMAGES))
    np.testing.assert_array_equal(numbers, scores.argmax(axis=-1))
    assert np.mean(classes == float_outputs("classes")) > 0.93


def test_classes_are_learned_by_their_scores(tmp_path):
    """The index has no gradient: distillation, scores and choices look at what it is of."""
    config = tfeptq.QuantizationConfig(
        weight_bits=(3, 8),
        activation_bits=(8, 16),
        first_last_bits=None,
        steps=20,
        samples=32,
        batch_size=8,
        budget=tfeptq.Budget(weight_bytes=700, activation_bytes=20000),
        sensitivity="label_free",
    )
    quantized = tfeptq.quantize(smaller_segmenter(), IMAGES, config)
    assert {3, 8} == {bits for bits, _ in quantized.bit_widths.values() if bits}
    assert quantized.report.quality.layers["large"] > 8.0
    # Verified operator by operator.
    assert found(quantized, tmp_path / "m.tflite", "litert").shape == (40, 24, 20)
    quantized.save(tmp_path / "m.keras")
    again = tfeptq.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again(IMAGES), quantized(IMAGES))


def test_other_axes_and_kept_ones():
    image = keras.Input((4, 6, 3))
    scores = L.Conv2D(5, 1)(image)
    outputs = [
        keras.ops.argmax(scores, axis=axis, keepdims=k) for axis in (1, 2, 3) for k in (0, 1)
    ]
    model = keras.Model(image, outputs)
    canonical = prepare(model)
    rows = IMAGES[:, :4, :6]
    for left, right in zip(model(rows), canonical(rows), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"target": "coral"}, r"ARG_MAX is not available on target 'coral'"),
        ({"activation_bits": 16}, r"ARG_MAX"),
    ],
)
def test_what_a_target_does_not_have_is_refused_by_name(settings, match):
    config = tfeptq.QuantizationConfig(**NEAREST, **settings)
    with pytest.raises(ValueError, match=match):
        tfeptq.quantize(segmenter(ends_in="classes"), IMAGES, config)


@pytest.mark.parametrize("ends_in", ["scores", "softmax"])
def test_a_segmentation_in_four_bits(tmp_path, ends_in):
    config = tfeptq.QuantizationConfig(weight_bits=4, rounding="optq", samples=32)
    quantized = tfeptq.quantize(segmenter(ends_in=ends_in), IMAGES, config)
    values = found(quantized, tmp_path / "m.tflite", "litert")
    wanted = float_outputs(ends_in)
    error = np.sqrt(np.mean(np.square(values - wanted))) / wanted.std()
    assert error < 0.25
    assert quantized.bit_widths["up"][0] == 4
