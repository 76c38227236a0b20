"""Every layer kind as primitives."""

from __future__ import annotations

import keras
import pytest
from keras import layers as L

from tests.tfeptq.preparation.canonical_check import C, H, N, W, check, image_model, randomize

IMAGE_STACKS = {
    "conv": [L.Conv2D(N, (3, 2), activation="relu")],
    "conv same strided": [L.Conv2D(N, 3, strides=2, padding="same", use_bias=False)],
    "conv dilated": [L.Conv2D(N, 3, dilation_rate=2, padding="same", activation="tanh")],
    "conv one group a channel": [L.Conv2D(2 * C, 3, groups=C, activation="relu")],
    "transposed conv": [L.Conv2DTranspose(N, (3, 2), strides=(2, 3), activation="relu")],
    "transposed conv between normalizations": [
        L.BatchNormalization(),
        L.Conv2DTranspose(N, 3, strides=2, padding="same", output_padding=0),
        L.BatchNormalization(),
        L.ReLU(),
    ],
    "depthwise": [L.DepthwiseConv2D((3, 2), depth_multiplier=2, activation="relu6")],
    "separable": [L.SeparableConv2D(N, 3, depth_multiplier=2, padding="same", activation="silu")],
    "dense on an image": [L.Dense(N, activation="sigmoid")],
    "conv, normalization, relu": [L.Conv2D(N, 3), L.BatchNormalization(), L.ReLU(6.0)],
    "depthwise, normalization": [
        L.DepthwiseConv2D(3, depth_multiplier=2),
        L.BatchNormalization(scale=False),
    ],
    "dense, normalization": [L.Flatten(), L.Dense(N), L.BatchNormalization(center=False)],
    "normalization, valid conv": [L.BatchNormalization(), L.Conv2D(N, 3)],
    "normalization, same conv": [L.BatchNormalization(), L.Conv2D(N, 3, padding="same")],
    "normalization, depthwise": [L.BatchNormalization(), L.DepthwiseConv2D(3, depth_multiplier=2)],
    "normalization, flatten, dense": [L.BatchNormalization(), L.Flatten(), L.Dense(N)],
    "relu, normalization": [L.Conv2D(N, 3), L.ReLU(), L.BatchNormalization(), L.ReLU()],
    "normalization alone on vectors": [L.Flatten(), L.BatchNormalization(), L.ReLU()],
    "rescaling": [L.Rescaling(1 / 127.5, -1.0), L.Conv2D(N, 3, padding="same")],
    "normalization layer": [L.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])],
    "relu bounded": [L.ReLU(max_value=3.5)],
    "relu with slope": [L.ReLU(negative_slope=0.3)],
    "transposed conv dilated": [L.Conv2DTranspose(N, (3, 2), padding="same", dilation_rate=(2, 3))],
    "exponential": [L.Conv2D(N, 1, activation="exponential")],
    "elu": [L.ELU(), L.ELU(0.25), L.Conv2D(N, 1, activation="elu")],
    "leaky relu": [L.LeakyReLU(negative_slope=0.1)],
    "prelu": [L.PReLU(shared_axes=[1, 2])],
    "prelu by position": [L.PReLU()],
    "hard swish": [L.Conv2D(N, 1, activation="hard_silu")],
    "hard sigmoid": [L.Conv2D(N, 1, activation="hard_sigmoid")],
    "activation layers": [L.Activation("swish"), L.Activation("tanh"), L.Activation("sigmoid")],
    "softmax": [L.Flatten(), L.Dense(N, activation="softmax")],
    "max pooling": [L.MaxPooling2D((2, 3), strides=2, padding="same")],
    "average pooling": [L.AveragePooling2D((2, 3), strides=1, padding="same")],
    "average pooling of everything": [L.AveragePooling2D((H, W)), L.Flatten()],
    "average pooling with the image's size but padding": [
        L.AveragePooling2D((H, W), strides=4, padding="same")
    ],
    "adaptive average pooling": [L.Resizing(6, 9), L.AdaptiveAveragePooling2D((3, 3))],
    "adaptive max pooling": [L.Resizing(6, 9), L.AdaptiveMaxPooling2D((2, 9))],
    "center crop": [L.CenterCrop(H - 3, W - 2), L.CenterCrop(H - 3, W - 3)],
    "global pooling": [L.GlobalAveragePooling2D()],
    "global pooling kept": [L.GlobalAveragePooling2D(keepdims=True)],
    "global max pooling": [L.GlobalMaxPooling2D()],
    "global max pooling kept": [L.GlobalMaxPooling2D(keepdims=True)],
    "reshape": [L.Reshape((W, -1)), L.Permute((2, 1))],
    "padding and cropping": [L.ZeroPadding2D(((1, 2), (0, 3))), L.Cropping2D(((0, 2), (1, 1)))],
    "up-sampling": [L.UpSampling2D((2, 3))],
    "up-sampling bilinear": [L.UpSampling2D(2, interpolation="bilinear")],
    "no-operations": [L.Dropout(0.5), L.GaussianNoise(1.0), L.SpatialDropout2D(0.5), L.Identity()],
    "augmentation": [L.RandomFlip(), L.RandomRotation(0.5), L.RandomContrast(0.5), L.MixUp()],
    "a layer as activation": [L.Conv2D(N, 3, activation=L.LeakyReLU(negative_slope=0.1))],
    "a bounded layer as activation": [L.Conv2D(N, 3, activation=L.ReLU(max_value=1.5))],
    "hard tanh": [L.Conv2D(N, 1, activation="hard_tanh")],
}


@pytest.mark.parametrize("name", IMAGE_STACKS)
def test_two_dimensional_layers(name):
    check(
        image_model(
            *[layer.__class__.from_config(layer.get_config()) for layer in IMAGE_STACKS[name]]
        )
    )


SEQUENCE_STACKS = {
    "conv": [L.Conv1D(N, 3, activation="relu")],
    "transposed conv": [L.Conv1DTranspose(N, 4, strides=3, output_padding=1), L.ReLU()],
    "transposed conv same": [L.Conv1DTranspose(N, 3, strides=2, padding="same")],
    "causal conv": [L.Conv1D(N, 3, padding="causal", dilation_rate=2)],
    "strided conv": [L.Conv1D(N, 3, padding="same", strides=2)],
    "depthwise": [L.DepthwiseConv1D(3, depth_multiplier=2, strides=2, activation="relu")],
    "separable": [L.SeparableConv1D(N, 3, padding="same", strides=2, activation="relu")],
    "conv, normalization, relu, conv": [
        L.Conv1D(N, 3),
        L.BatchNormalization(),
        L.ReLU(),
        L.Conv1D(4, 2),
    ],
    "max pooling": [L.MaxPooling1D(2)],
    "average pooling": [L.AveragePooling1D(3, strides=2, padding="same")],
    "global pooling": [L.GlobalAveragePooling1D()],
    "global pooling kept": [L.GlobalAveragePooling1D(keepdims=True)],
    "global max pooling": [L.GlobalMaxPooling1D()],
    "padding and cropping": [L.ZeroPadding1D((1, 2)), L.Cropping1D((2, 0))],
    "up-sampling": [L.UpSampling1D(3)],
    "convolution with one group a channel": [L.Conv1D(2 * C, 3, groups=C, strides=2)],
    "dense": [L.Dense(N), L.BatchNormalization()],
}


@pytest.mark.parametrize("name", SEQUENCE_STACKS)
def test_one_dimensional_layers(name):
    stack = [layer.__class__.from_config(layer.get_config()) for layer in SEQUENCE_STACKS[name]]
    check(image_model(*stack, shape=(11, C)))


def test_one_dimensional_convolutions_meet_without_reshapes():
    stack = [L.Conv1D(N, 3), L.BatchNormalization(), L.ReLU(), L.Conv1D(4, 2), L.ReLU()]
    canonical = check(image_model(*stack, shape=(11, C)))
    kinds = [type(layer) for layer in canonical.layers]
    assert kinds == [L.InputLayer, L.Reshape, L.Conv2D, L.ReLU, L.Conv2D, L.ReLU, L.Reshape]


def two_branches(merge) -> keras.Model:
    inputs = keras.Input((H, W, C))
    branches = [L.Conv2D(N, 1, name=f"branch_{index}")(inputs) for index in range(3)]
    return randomize(keras.Model(inputs, merge(branches)))


@pytest.mark.parametrize(
    "merge",
    [L.Add(), L.Multiply(), L.Average(), L.Maximum(), L.Minimum(), L.Concatenate(axis=1)],
    ids=lambda merge: type(merge).__name__,
)
def test_merges_of_three(merge):
    check(two_branches(merge))


def test_subtract():
    check(two_branches(lambda branches: L.Subtract()(branches[:2])))


def test_separable_convolutions_name_their_two_parts():
    canonical = check(image_model(L.SeparableConv2D(N, 3, activation="relu", name="sep")))
    names = [layer.name for layer in canonical.layers][1:]
    assert names == ["sep_depthwise", "sep", "sep_relu"]


def test_a_global_policy_of_lower_precision_does_not_reach_the_canonical_model():
    model = image_model(L.Conv2D(N, 3))
    keras.config.set_dtype_policy("mixed_float16")
    try:
        canonical = check(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {variable.dtype for variable in canonical.variables} == {"float32"}
    assert canonical.layers[-1].compute_dtype == "float32"


def test_a_sum_may_have_any_number_of_parts():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Add(name="sum")([inputs] * 1200))
    found = check(model)
    assert [layer.name for layer in found.layers][-1] == "sum"
