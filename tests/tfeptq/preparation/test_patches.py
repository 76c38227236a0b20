"""Patches cut out of images, of any size, strides, dilation and padding."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L
from keras import ops

import tfeptq
import tflite_export
from tests.tfeptq.preparation.canonical_check import C, H, W, check, image_model
from tfeptq.preparation import UnsupportedLayerError, prepare

_PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 4))
#: Strides and dilations: kernels know one of both.
_STEPS = st.one_of(
    st.tuples(_PAIRS, st.just((1, 1))),
    st.tuples(st.just((1, 1)), st.tuples(st.integers(1, 2), st.integers(1, 2))),
)


@settings(max_examples=40)
@given(size=_PAIRS, steps=_STEPS, padding=st.sampled_from(["same", "valid"]))
def test_patches_are_those_of_keras(size, steps, padding):
    strides, (rate, _) = steps
    inputs = keras.Input((H, W, C))
    check(keras.Model(inputs, ops.image.extract_patches(inputs, size, strides, rate, padding)))


@settings(max_examples=20)
@given(size=_PAIRS, steps=_STEPS, padding=st.sampled_from(["SAME", "VALID"]))
def test_patches_are_those_of_tensorflow(size, steps, padding):
    def cut(images):
        lengths = ((1, *each, 1) for each in (size, *steps))
        return tf.image.extract_patches(images, *lengths, padding)

    check(image_model(L.Lambda(cut)))


def test_patches_side_by_side_are_moved_and_not_copied():
    inputs = keras.Input((12, 8, C))
    model = prepare(keras.Model(inputs, ops.image.extract_patches(inputs, 4)))
    kinds = {type(layer) for layer in model.layers}
    assert kinds == {L.InputLayer, L.Reshape, L.Permute}


def test_the_patches_of_a_vision_transformer_are_exact_in_the_file(tmp_path):
    inputs = keras.Input((10, 13, 3))
    patches = ops.image.extract_patches(inputs, (5, 4), (2, 3))
    model = keras.Model(inputs, ops.reshape(patches, (-1, 3 * 4, 60)))
    samples = np.random.default_rng(0).normal(size=(9, 10, 13, 3)).astype("float32")
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=9)
    quantized = tfeptq.quantize(model, samples, config)
    graph = quantized.freeze()
    scales = {tensor.quantization.scale.item() for tensor in graph.tensors.values()}
    assert len(scales) == 1
    tflite_export.export(graph, tmp_path / "m.tflite", target="android")


@pytest.mark.parametrize(("shape", "size"), [((6, 7, 8, 3), (2, 2, 2)), ((7, 3), 2)])
def test_what_is_no_image_is_refused_by_name(shape, size):
    inputs = keras.Input(shape)
    outputs = ops.image.extract_patches(inputs, size)
    with pytest.raises(UnsupportedLayerError, match=r"'extract_patches.*cuts patches"):
        prepare(keras.Model(inputs, outputs))
