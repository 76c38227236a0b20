"""Scales and offsets go into the weights around them wherever that is exact."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

from tests.tfeptq.preparation.canonical_check import C, H, N, W, check, image_model, randomize


def test_batch_normalization_leaves_no_layer_where_it_folds():
    canonical = check(image_model(L.Conv2D(N, 3, name="conv"), L.BatchNormalization(), L.ReLU()))
    assert [layer.name for layer in canonical.layers][1] == "conv"
    assert [type(layer) for layer in canonical.layers] == [L.InputLayer, L.Conv2D, L.ReLU]


def test_a_normalization_that_fits_nowhere_becomes_a_depthwise_convolution():
    canonical = check(image_model(L.BatchNormalization(name="norm"), L.ReLU()))
    assert type(canonical.get_layer("norm")) is L.DepthwiseConv2D


def kinds(model: keras.Model) -> list[type]:
    return [type(layer) for layer in model.layers][1:]


def positive_scales(*stack) -> keras.Model:
    """A model whose batch normalizations have positive scales, as trained ones mostly have."""
    model = image_model(*stack)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.gamma.assign(np.abs(layer.gamma) + 0.1)
    return model


@pytest.mark.parametrize(
    "passed",
    [
        L.MaxPooling2D(2, padding="same"),
        L.AveragePooling2D((3, 2), strides=2, padding="same"),
        L.GlobalAveragePooling2D(keepdims=True),
        L.Cropping2D(1),
        L.UpSampling2D(2, interpolation="bilinear"),
        L.Reshape((W, H, C)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_normalization_passes_what_moves_or_averages_positions(passed):
    fresh = type(passed).from_config(passed.get_config())
    canonical = check(positive_scales(L.BatchNormalization(), fresh, L.Conv2D(N, 1)))
    assert kinds(canonical)[-1] is L.Conv2D
    assert L.DepthwiseConv2D not in kinds(canonical)


def test_normalization_passes_pooling_and_flatten_into_dense():
    stack = [L.ReLU(), L.BatchNormalization(), L.MaxPooling2D(2), L.Flatten(), L.Dense(N)]
    canonical = check(positive_scales(*stack))
    assert kinds(canonical) == [L.ReLU, L.MaxPooling2D, L.Reshape, L.Dense]


def test_negative_scales_stay_before_max_pooling():
    model = positive_scales(L.BatchNormalization(name="norm"), L.MaxPooling2D(2), L.Conv2D(N, 1))
    model.get_layer("norm").gamma.assign([1.0, -1.0, 2.0])
    assert kinds(check(model))[:2] == [L.DepthwiseConv2D, L.MaxPooling2D]


def test_only_pure_scales_pass_zero_padding():
    scale = [L.Rescaling(1 / 255), L.ZeroPadding2D(2), L.Conv2D(N, 3)]
    assert kinds(check(image_model(*scale))) == [L.ZeroPadding2D, L.Conv2D]
    shift = [L.Rescaling(1 / 255, 0.5), L.ZeroPadding2D(2), L.Conv2D(N, 3)]
    assert kinds(check(image_model(*shift)))[0] is L.DepthwiseConv2D


def test_hard_sigmoid_is_one_bounded_relu_behind_its_layer():
    canonical = check(image_model(L.Conv2D(N, 1, activation="hard_sigmoid")))
    assert kinds(canonical) == [L.Conv2D, L.ReLU]
    assert canonical.layers[-1].max_value == 1.0


@pytest.mark.parametrize("maximum", [None, 6.0])
def test_a_positive_scale_goes_before_a_relu_into_the_convolution(maximum):
    inputs = keras.Input((H, W, C))
    gate = L.ReLU(maximum)(L.Conv2D(N, 1)(inputs) + 3.0) * (1.0 / 6.0)
    canonical = check(randomize(keras.Model(inputs, gate * L.Conv2D(N, 1)(inputs))))
    assert L.DepthwiseConv2D not in kinds(canonical)


def test_scales_by_channel_stay_behind_a_bounded_relu():
    inputs = keras.Input((H, W, C))
    bounded = L.ReLU(6.0)(L.Conv2D(C, 1)(inputs)) * np.array([1.0, 2.0, 3.0], "float32")
    check(randomize(keras.Model(inputs, bounded)))


def test_two_normalizations_in_a_row_fold_into_one_convolution():
    stack = [L.Conv2D(N, 3), L.BatchNormalization(), L.BatchNormalization()]
    assert kinds(check(image_model(*stack))) == [L.Conv2D]


def test_a_shared_normalization_folds_where_it_can():
    inputs, shared = keras.Input((H, W, C)), L.BatchNormalization(name="norm")
    outputs = shared(L.Conv2D(C, 1)(inputs)) + shared(inputs)
    canonical = check(randomize(keras.Model(inputs, outputs)))
    assert sum(kind is L.DepthwiseConv2D for kind in kinds(canonical)) == 1


@pytest.mark.parametrize("second", [(2.0, 0.5), (3.0, 0.5), (2.0, -0.25)], ids=str)
def test_a_shared_layer_takes_what_follows_all_its_calls_and_nothing_else(second):
    inputs, shared = keras.Input((H, W, C)), L.Conv2D(N, 1, name="conv")
    calls = [shared(inputs), shared(L.MaxPooling2D(3, strides=1, padding="same")(inputs))]
    model = keras.Model(inputs, [L.Rescaling(2.0, 0.5)(calls[0]), L.Rescaling(*second)(calls[1])])
    canonical = check(randomize(model))
    assert (kinds(canonical).count(L.DepthwiseConv2D) == 0) == (second == (2.0, 0.5))


@pytest.mark.parametrize("shape", [(C,), (W, C), (2, H, W, C)])
def test_a_lone_normalization_keeps_the_rank(shape):
    canonical = check(image_model(L.BatchNormalization(), L.ReLU(), shape=shape))
    assert L.DepthwiseConv2D in kinds(canonical)


def test_folding_is_exact_for_extreme_statistics():
    model = image_model(L.Conv2D(N, 3), L.BatchNormalization(epsilon=1e-3))
    model.layers[-1].moving_variance.assign(np.geomspace(1e-6, 1e6, N))
    check(model)


@pytest.mark.parametrize("second", ["another input", "the same input", "what is no call"])
def test_what_follows_a_sum_of_two_calls_is_added_once(second):
    inputs = keras.Input((5,)), keras.Input((5,))
    shared = L.Dense(5)
    others = {
        "another input": lambda: shared(inputs[1]),
        "the same input": lambda: shared(inputs[0]),
        "what is no call": lambda: inputs[1],
    }
    total = L.Add()([shared(inputs[0]), others[second]()]) + 3.0
    check(randomize(keras.Model(inputs, total)))
