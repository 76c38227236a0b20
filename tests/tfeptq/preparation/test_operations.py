"""The same computations written with `keras.ops` and Python operators."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from tests.tfeptq.preparation.canonical_check import C, H, N, W, check
from tfeptq.preparation import UnsupportedLayerError, prepare


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape).astype("float32")


OPERATIONS = {
    "arithmetic with numbers": lambda x: (1 - (x * 2 + 1) / 3.0) - 0.5,
    "arithmetic with channels": lambda x: (
        ops.multiply(x, np.array([1.0, 2.0, -3.0], "float32"))
        + np.array([0.0, 1.0, 2.0], "float32")
    ),
    "negative": lambda x: -x,
    "relu6": ops.relu6,
    "clip": lambda x: ops.clip(x, -0.5, 0.75),
    "maximum of a number": lambda x: ops.maximum(x, 0.25),
    "minimum of a number": lambda x: ops.minimum(0.25, x),
    "two tensors": lambda x: ops.maximum(x + ops.sigmoid(x), ops.tanh(x) * x) - ops.minimum(x, -x),
    "silu": ops.silu,
    "hard functions": lambda x: ops.hard_silu(x) + ops.hard_sigmoid(x),
    "leaky relu": lambda x: ops.leaky_relu(x, 0.3),
    "softmax": lambda x: ops.softmax(ops.reshape(x, (-1, H, W * C)), axis=-1),
    "mean": lambda x: ops.mean(x, axis=(1, 2)),
    "mean kept": lambda x: ops.mean(x, axis=[-3, -2], keepdims=True),
    "shapes": lambda x: ops.squeeze(ops.expand_dims(ops.reshape(x, (-1, H * W, C)), 1), axis=1),
    "transpose": lambda x: ops.transpose(x, (0, 2, 3, 1)),
    "concatenate": lambda x: ops.concatenate([x, -x, x], axis=-1),
    "pad": lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0))),
    "concatenate one": lambda x: ops.concatenate([x]) * 2,
    "constant tensors": lambda x: x * ops.convert_to_tensor([1.0, 2.0, -3.0]) + ops.ones((C,)),
    "variables": lambda x: x * keras.Variable(np.array([1.0, 2.0, -3.0], "float32")),
    "square": lambda x: ops.square(x) + x**2,
    "no-operations": lambda x: ops.stop_gradient(ops.cast(x, "float32")),
    "relu with bound": lambda x: keras.activations.relu(x, max_value=1.5),
    "relu with slope": lambda x: keras.activations.relu(x, negative_slope=0.1),
    "hard tanh": ops.hard_tanh,
    "max pooling": lambda x: ops.max_pool(x, 2, padding="same"),
    "average pooling": lambda x: ops.average_pool(x, (2, 3), strides=(1, 2)),
    "maximum over positions": lambda x: ops.max(x, axis=(1, 2)),
    "maximum over positions kept": lambda x: ops.max(x, axis=(1, 2), keepdims=True),
    "conv": lambda x: ops.conv(x, weights(3, 2, C, N), strides=2, padding="same"),
    "depthwise conv": lambda x: ops.depthwise_conv(x, weights(3, 2, C, 2), dilation_rate=2),
    "separable conv": lambda x: ops.separable_conv(
        x, weights(3, 3, C, 2), weights(1, 1, 2 * C, N), padding="same"
    ),
    "matrix product": lambda x: x @ weights(C, N) + weights(N),
    "matrix from the left": lambda x: ops.matmul(weights(N, W), x),
    "matrix with axes in front": lambda x: x @ weights(1, 1, C, N) + x @ weights(1, C, N),
    "matrix from the left with axes in front": lambda x: ops.matmul(weights(1, 1, N, W), x),
    "swapped axes": lambda x: ops.swapaxes(x, 1, -1),
    "moved axis": lambda x: ops.moveaxis(x, 1, 3),
    "enlarged nearest": lambda x: ops.image.resize(x, (2 * H, 3 * W), interpolation="nearest"),
    "another size": lambda x: ops.image.resize(x, (H + 3, W - 2)),
    "another size by the nearest": lambda x: ops.image.resize(
        x, (H - 4, 2 * W + 1), interpolation="nearest"
    ),
    "enlarged": lambda x: ops.image.resize(x, (2 * H, 2 * W)),
    "slices": lambda x: x[:, 1:-1, 2:],
    "slices of channels": lambda x: x[..., 1:],
    "places": lambda x: x[:, 2, :, -1],
    "new axis": lambda x: x[:, None, 1:4, :, 0],
    "last places": lambda x: x[:, :, -2:],
    "mean of channels": lambda x: ops.mean(x, axis=-1),
    "mean of one axis kept": lambda x: ops.mean(x, axis=1, keepdims=True),
    "mean of all": lambda x: ops.mean(x, axis=(1, 2, 3), keepdims=True),
    "sum": lambda x: ops.sum(x, axis=(1, 3)),
    "maximum of channels": lambda x: ops.max(x, axis=-1, keepdims=True),
    "minimum": lambda x: ops.min(x, axis=(2, 3)),
    "absolute": ops.abs,
    "third power": lambda x: x**3,
    "stack": lambda x: ops.stack([x, -x, x * 2], axis=2),
    "stack behind": lambda x: ops.stack([x, -x], axis=-1),
    "unstack": lambda x: ops.unstack(x, axis=2)[1],
    "tile": lambda x: ops.tile(x, (1, 2, 1, 3)),
    "repeat": lambda x: ops.repeat(x, 3, axis=2),
    "flip": lambda x: ops.flip(x, axis=(1, 3)),
    "softmax over rows": lambda x: ops.softmax(x, axis=1),
    "every second place": lambda x: x[:, ::2, 1::3],
    "every second place and the last": lambda x: x[:, 0 : H - 2 : 2, :: W - 1],
    "pad channels": lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 1), (2, 3))),
    "pad with a number": lambda x: ops.pad(
        x, ((0, 0), (1, 0), (0, 1), (0, 0)), constant_values=-2.0
    ),
    "relu with slope and bound": lambda x: keras.activations.relu(
        x, negative_slope=0.1, max_value=0.5
    ),
    "einsum": lambda x: ops.einsum("abcd,de->abce", x, weights(C, N)),
    "einsum of two axes": lambda x: ops.einsum("abcd,cdef->aebf", x, weights(W, C, 2, N)),
    "einsum with weights first": lambda x: ops.einsum("ec,abcd->abed", weights(N, W), x),
    "einsum with a matrix a place": lambda x: ops.einsum("abcd,cde->abce", x, weights(W, C, N)),
    "einsum with a matrix a place, turned": lambda x: ops.einsum(
        "edbf,abcd->afbec", weights(2, C, H, N), x
    ),
    "einsum with a factor a channel": lambda x: ops.einsum("abcd,d->abcd", x, weights(C)),
    "a matrix a place": lambda x: x @ weights(H, C, N),
    "a matrix a place from the left": lambda x: ops.matmul(weights(H, N, W), x),
    "einsum of three": lambda x: ops.einsum("abcd,de,ec->abce", x, weights(C, N), weights(N, W)),
    "einsum of three, two of them arrays": lambda x: ops.einsum(
        "fc,ce,abcd->abfed", weights(2, W), weights(W, N), x
    ),
    "einsum with an ellipsis": lambda x: ops.einsum("...d,de->...e", x, weights(C, N)),
    "tensordot": lambda x: ops.tensordot(x, weights(W, C, N), axes=2),
    "tensordot of named axes": lambda x: ops.tensordot(x, weights(N, H), axes=([1], [1])),
    "division by a tensor": lambda x: x / (ops.abs(x[:, ::-1]) + 0.5),
    "number over a tensor": lambda x: 2.0 / (ops.square(x) + 0.5),
    "vector over a tensor": lambda x: ops.divide(weights(C), ops.square(x) + 0.5),
    "over a root": lambda x: (x - 1.0) / ops.sqrt(ops.var(x, axis=(1, 2), keepdims=True) + 1e-3),
    "shares of a sum": lambda x: x / ops.sum(ops.abs(x), axis=-1, keepdims=True),
    "log of sums of exponentials": lambda x: ops.logsumexp(x, axis=(1, 3)),
    "log of softmax": lambda x: ops.log_softmax(x, axis=2),
    "log of two exponentials": lambda x: ops.logaddexp(x, x[:, ::-1]),
    "hypotenuse": lambda x: ops.hypot(x, x[..., ::-1]),
    "product": lambda x: ops.prod(x, axis=1),
    "product kept": lambda x: ops.prod(x, axis=(2, 3), keepdims=True),
    "norms": lambda x: ops.norm(x, axis=-1) + ops.norm(x, 1, axis=-1) - ops.norm(x, np.inf, axis=3),
    "extremes of another name": lambda x: ops.amax(x, axis=1) - ops.amin(x, axis=1),
    "average": lambda x: ops.average(x, axis=2),
    "chosen by a number": lambda x: ops.where(x > 0.25, 2.0 * x, -1.0),
    "chosen by a number on the left": lambda x: ops.where(x <= 0.25, x, ops.square(x)),
    "chosen by another tensor": lambda x: ops.where(x < x[:, ::-1], x, 0.0),
    "chosen by an array": lambda x: ops.where(weights(W, 1) > 0, x, -x),
    "logic": lambda x: ops.cast(
        ops.logical_or(ops.logical_and(x > -1.0, x <= 0.0), ops.logical_not(x < 2.0)), "float32"
    ),
    "whole numbers that differ": lambda x: ops.cast(ops.not_equal(ops.round(x), 1.0), "float32"),
    "mirrored places": lambda x: x[:, ::-1, :, ::-2],
    "rolled": lambda x: ops.roll(x, (2, -1), axis=(1, 3)),
    "a quarter turn": lambda x: ops.rot90(x, axes=(2, 1)),
    "differences": lambda x: ops.diff(x, n=2, axis=2),
    "triangles": lambda x: ops.tril(x, -1) + ops.triu(x, 1),
    "reflected": lambda x: ops.pad(x, ((0, 0), (2, 3), (0, 1), (1, 0)), mode="reflect"),
    "symmetric": lambda x: ops.pad(x, ((0, 0), (0, 2), (1, 1), (0, 0)), mode="symmetric"),
    "cumulative sums": lambda x: ops.cumsum(x, axis=2),
    "gated halves": lambda x: ops.glu(x[:, 1:], axis=1),
    "functions in a chain": lambda x: 2.0 * ops.log(3.0 * ops.softplus(x - 1.0) + 0.5) + 1.0,
    "no infinite numbers": ops.nan_to_num,
    "split": lambda x: ops.split(x, [1], axis=-1)[1] * ops.split(x, C, axis=3)[0],
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_keras_operations(name):
    inputs = keras.Input((H, W, C))
    check(keras.Model(inputs, OPERATIONS[name](inputs)))


SEQUENCE_OPERATIONS = {
    "mean": lambda x: ops.mean(x, axis=1),
    "mean kept": lambda x: ops.mean(x, axis=1, keepdims=True),
    "maximum": lambda x: ops.max(x, axis=-2),
    "conv": lambda x: ops.conv(x, weights(3, C, N), strides=2),
    "depthwise conv": lambda x: ops.depthwise_conv(x, weights(3, C, 2), strides=2, padding="same"),
    "max pooling": lambda x: ops.max_pool(x, 3, strides=2),
    "batch of one vector": lambda x: ops.reshape(x, (-1, 1, 11 * C)),
}


@pytest.mark.parametrize("name", SEQUENCE_OPERATIONS)
def test_keras_operations_on_sequences(name):
    inputs = keras.Input((11, C))
    check(keras.Model(inputs, SEQUENCE_OPERATIONS[name](inputs)))


REFUSED = {
    "is a power by a tensor": lambda x: ops.power(x, x),
    "is a power of -2": lambda x: ops.power(-2.0, x),
    "takes slice": lambda x: x[:, 3:3],
    "includes the batch": lambda x: ops.mean(x, axis=0, keepdims=True),
    "give keepdims=True": lambda x: ops.sum(x, axis=(1, 2, 3)),
    "pads the batch": lambda x: ops.pad(x, 1),
    "repeats the batch": lambda x: ops.tile(x, (2, 1, 1, 1)),
    "no product with a matrix": lambda x: ops.einsum("abcd,de->abe", x, weights(C, N)),
    "newshape": lambda x: ops.reshape(x, (-1, W * C)),
    "moves the batch": lambda x: ops.relu(ops.transpose(x, (1, 0, 2, 3))),
    "divides by a tensor": lambda x: ops.mod(x, x),
    "is the norm of order 3": lambda x: ops.norm(x, 3, axis=-1),
    "rounds to 2 decimals": lambda x: ops.round(x, 2),
    "take the largest outside of the file": lambda x: ops.top_k(x, 2)[0],
    "rolls through the batch": lambda x: ops.roll(x, 1),
    "axis=0 is the batch": lambda x: ops.concatenate([x, x], axis=0),
    "takes part of the batch": lambda x: x[0],
    "same axes in front": lambda x: ops.matmul(x, ops.mean(x, axis=1, keepdims=True)[:, :, :C]),
    "multiplies with an array of shape": lambda x: ops.dot(x, weights(2, C, N)),
    "takes its weights from a tensor": lambda x: ops.tensordot(x, ops.mean(x, axis=(1, 2)), 1),
    "antialias=True": lambda x: ops.image.resize(x, (H + 1, W), antialias=True),
    "resizes a tensor": lambda x: ops.image.resize(x, (H + 1, W), interpolation="bicubic"),
    "casts to int32": lambda x: ops.cast(ops.cast(x, "int32"), "float32"),
    "varies with the sample": lambda x: x + np.ones((2, 1, W, C), "float32"),
    "batch of one meets another axis": lambda x: x + ops.mean(x, axis=(1, 2)),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refusals_say_why_and_name_the_operation(reason):
    inputs = keras.Input((H, W, C))
    with pytest.raises(UnsupportedLayerError, match=reason) as refusal:
        prepare(keras.Model(inputs, REFUSED[reason](inputs)))
    assert str(refusal.value).startswith("layer '")
