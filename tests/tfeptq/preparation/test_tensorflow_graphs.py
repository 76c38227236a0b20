"""A `call` of TensorFlow's own functions is read from its TensorFlow graph."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

import tfeptq
from tests.tfeptq.preparation.canonical_check import (
    C,
    H,
    N,
    W,
    assert_same,
    check,
    image_model,
    randomize,
)
from tfeptq.preparation import UnsupportedLayerError, as_functional, prepare, tensorflow_graphs
from tfeptq.preparation.tensorflow_graphs.frozen import frozen
from tfeptq.preparation.tensorflow_graphs.operators import OPERATORS

_random = np.random.default_rng(0)


def constants(*shape: int) -> tf.Tensor:
    return tf.constant(_random.normal(0.0, 0.4, shape).astype("float32"))


KERNEL, DEPTHWISE, MATRIX = constants(3, 2, C, 4), constants(3, 2, C, 2), constants(C, 5)
ROW, TABLE = constants(C), constants(1, H, W, C)
#: Functions of images (N, H, W, C); what they use is in their names.
FUNCTIONS = {
    "conv2d": lambda x: tf.nn.conv2d(x, KERNEL, strides=2, padding="SAME"),
    "dilated": lambda x: tf.nn.conv2d(x, KERNEL, strides=1, padding="VALID", dilations=2),
    "phases": lambda x: tf.nn.convolution(x, KERNEL, padding="SAME", dilations=[3, 2]),
    "phases_of_rows": lambda x: tf.nn.conv1d(
        tf.reshape(x, (-1, H * W, C)), KERNEL[:, 0], 1, "SAME", dilations=2
    ),
    "explicit": lambda x: tf.nn.conv2d(
        x, KERNEL, strides=1, padding=[[0, 0], [1, 2], [0, 1], [0, 0]]
    ),
    "depthwise": lambda x: tf.nn.depthwise_conv2d(x, DEPTHWISE, [1, 1, 1, 1], "SAME"),
    "transposed": lambda x: tf.nn.conv2d_transpose(
        x, tf.transpose(KERNEL, (0, 1, 3, 2)), (tf.shape(x)[0], 2 * H, 2 * W, 4), strides=2
    ),
    "bias_add": lambda x: tf.nn.bias_add(x, ROW),
    "matmul": lambda x: tf.matmul(tf.reduce_max(x, [1, 2]), MATRIX),
    "tensordot": lambda x: tf.tensordot(x, MATRIX, [[3], [0]]) + tf.ones(5),
    "computed_matmul": lambda x: tf.matmul(x, x[..., :2], transpose_a=True),
    "einsum": lambda x: tf.einsum("nhwc,cd->nhwd", x, MATRIX),
    "batch_normalization": lambda x: tf.nn.batch_normalization(
        x, ROW, tf.abs(ROW) + 0.3, ROW, ROW, 1e-3
    ),
    "fused_batch_normalization": lambda x: tf.compat.v1.nn.fused_batch_norm(
        x, ROW, ROW, mean=ROW, variance=tf.abs(ROW) + 0.3, is_training=False
    )[0],
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, 0.3),
    "elu": tf.nn.elu,
    "gelu": tf.nn.gelu,
    "gelu_by_erf": lambda x: 0.5 * x * (1.0 + tf.math.erf(x / 1.4142135)),
    "error_functions": lambda x: tf.math.erf(0.5 * x) * x + tf.math.erfc(x),
    "error_functions_of_half_a_gelu": lambda x: (
        (2.0 + tf.math.erf(x / 1.4142135)) * x - tf.math.erfc(-x / 1.4142135)
    ),
    "trigonometry": lambda x: tf.sin(x) + tf.cos(x) * tf.sinh(x) - tf.cosh(x) + tf.tan(0.3 * x),
    "inverse_trigonometry": lambda x: (
        tf.asin(tf.tanh(x)) + tf.acos(tf.tanh(x)) * tf.atan(x) - tf.asinh(x)
    ),
    "inverse_hyperbolic": lambda x: tf.acosh(1.5 + x * x) - tf.atanh(0.5 * tf.tanh(x)),
    "rounding": lambda x: tf.floor(x) + tf.math.ceil(3.0 * x) * tf.round(2.0 * x) + tf.sign(x),
    "rint": tf.math.rint,
    "logarithms": lambda x: tf.math.log1p(tf.abs(x)) - tf.math.expm1(x),
    "log_softmax": tf.nn.log_softmax,
    "clip": lambda x: (
        tf.clip_by_value(x, -0.5, 0.25)
        + tf.raw_ops.ClipByValue(t=x, clip_value_min=-0.1, clip_value_max=0.3)
    ),
    "choices": lambda x: tf.where((x > 0.1) & ~(x >= 0.7) | (x < -1.0), x, 0.5),
    "more_choices": lambda x: tf.where((x <= 0.2) | tf.equal(x, 2.0), 2.0 * x, tf.nn.relu(x)),
    "not_equal": lambda x: tf.cast(tf.not_equal(tf.nn.relu(x), 0.0), "float32"),
    "argmax": lambda x: tf.cast(tf.argmax(x, axis=-1), "float32"),
    "product": lambda x: tf.reduce_prod(x, axis=-1),
    "add_n": lambda x: tf.add_n([x, tf.nn.relu(x), 2.0 * x, TABLE + tf.zeros_like(x)]),
    "older_batch_normalization": lambda x: (
        tf.raw_ops.FusedBatchNorm(
            x=x, scale=ROW, offset=ROW, mean=ROW, variance=tf.abs(ROW) + 0.3, is_training=False
        ).y
    ),
    "batch_matmul": lambda x: tf.raw_ops.BatchMatMul(x=x, y=x, adj_y=True),
    "ones": lambda x: x / (tf.ones_like(x) + tf.ones_like(x)),
    "roll": lambda x: tf.roll(x, [2, -1], axis=[1, 2]),
    "local_response": lambda x: tf.nn.local_response_normalization(x, 1, 1.0, 0.3, 0.75),
    "sigmoid": tf.sigmoid,
    "tanh": tf.tanh,
    "exp": lambda x: tf.exp(-tf.abs(x)),
    "softmax": tf.nn.softmax,
    "silu": tf.nn.silu,
    "square": lambda x: tf.square(x) - tf.math.squared_difference(x, ROW),
    "rsqrt": lambda x: x * tf.math.rsqrt(tf.reduce_mean(x * x, axis=-1, keepdims=True) + 1.0),
    "arithmetic": lambda x: (2.0 - x) * 3.0 / 7.0 + TABLE - tf.maximum(x, ROW),
    "one_value_a_sample": lambda x: x + tf.ones((tf.shape(x)[0], 1, 1, 1)),
    "reductions": lambda x: tf.reduce_max(x, -1) + tf.reduce_sum(x, 3) - tf.reduce_min(x, -1),
    "max_pool": lambda x: tf.nn.max_pool2d(x, (3, 2), 2, "SAME"),
    "avg_pool": lambda x: tf.nn.avg_pool2d(x, 2, (2, 1), "VALID"),
    "reshape": lambda x: tf.reshape(x, (tf.shape(x)[0], -1)),
    "reshape_inner": lambda x: tf.reshape(x, (-1, H * W, C)),
    "transpose": lambda x: tf.transpose(x, (0, 2, 1, 3)),
    "squeeze": lambda x: tf.squeeze(x[:, :, :1], 2)[:, :, tf.newaxis],
    "concat": lambda x: tf.concat([x, tf.nn.relu(x)], axis=-1),
    "split": lambda x: tf.split(x, 3, axis=-1)[1] + tf.split(x, [1, 2], axis=3)[0],
    "stack": lambda x: tf.stack(tf.unstack(x, axis=1)[:3], axis=1),
    "strided_slice": lambda x: x[:, 1:-1:2, ::3, 1:],
    "slice": lambda x: tf.slice(x, (0, 1, 2, 0), (-1, 3, -1, 2)),
    "pad": lambda x: tf.pad(x, [[0, 0], [1, 0], [2, 1], [0, 0]]),
    "reverse": lambda x: tf.reverse(x, [-1, 1]),
    "tile": lambda x: tf.tile(x, (1, 2, 1, 3)),
    "broadcast": lambda x: tf.broadcast_to(x[:, :1], tf.shape(x)),
    "resize": lambda x: tf.image.resize(x, (2 * H, 3 * W)),
    "resize_nearest": lambda x: tf.image.resize(x, (2 * H, W), "nearest"),
    "depth_to_space": lambda x: tf.nn.depth_to_space(tf.concat([x, x, x, x], -1), 2),
    "space_to_depth": lambda x: tf.nn.space_to_depth(x[:, :8, :6], 2),
    "gather": lambda x: tf.gather(x, [2, 0], axis=3),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_tensorflow_are_read(name):
    check(image_model(L.Lambda(FUNCTIONS[name])))


#: Those that give back the shape which they are given, to be put behind one another.
_ALIKE = [
    *("relu", "relu6", "leaky_relu", "sigmoid", "tanh", "exp", "softmax", "silu", "square"),
    *("rsqrt", "arithmetic", "one_value_a_sample", "bias_add", "fused_batch_normalization"),
]


@settings(max_examples=25)
@given(st.lists(st.sampled_from(_ALIKE), min_size=2, max_size=4), st.booleans())
def test_chains_of_functions(names, is_residual):
    def chain(x):
        y = x
        for name in names:
            y = FUNCTIONS[name](y)
        return tf.add(x, y) if is_residual else y

    check(image_model(L.Lambda(chain)), rounding=1e-4)


class Mixed(keras.Model):
    """Keras layers between functions of TensorFlow, one of them shared."""

    def __init__(self):
        super().__init__(name="mixed")
        self.stem, self.body = L.Conv2D(4, 3, name="stem"), L.Conv2D(4, 1, name="body")
        self.norm, self.head = L.BatchNormalization(), L.Dense(N, name="head")

    def call(self, x, training=None):
        y = tf.nn.relu(self.norm(self.stem(x), training=training))
        for _ in range(2):
            y = tf.nn.relu(self.body(y)) + y
        return {"mean": self.head(tf.reduce_mean(y, axis=(1, 2))), "map": tf.sigmoid(y)}


def test_a_subclassed_model_keeps_the_names_of_its_layers_and_shares_their_weights():
    model = Mixed()
    model(np.zeros((1, H, W, C), "float32"))
    randomize(model)
    functional = as_functional(model)
    canonical = check(functional)
    assert set(functional.output) == {"mean", "map"}
    weighted = [layer.name for layer in canonical.layers if layer.weights]
    assert {"body", "head", "stem"} <= set(weighted)
    assert not any(name.startswith(("body_", "head_", "stem_")) for name in weighted)
    images = np.random.default_rng(2).normal(size=(3, H, W, C)).astype("float32")
    for key, value in model(images).items():
        np.testing.assert_allclose(functional(images)[key], value, rtol=1e-5, atol=1e-5)


def test_sizes_given_for_a_model_of_tensorflow_functions():
    model = Mixed()
    model.build((None, None, None, C))
    check(randomize(as_functional(model, (11, 6, C))))


def _next(value):
    return value + 1


REFUSED = {
    "one and two": (
        lambda x: tf.one_hot(tf.argmax(x, -1), C, on_value=2.0, off_value=1.0),
        "gives 2.0 and 1.0",
    ),
    "cumulated": (lambda x: tf.cumsum(x, axis=1), "Cumsum"),
    "sorted": (lambda x: tf.sort(x), "TopKV2"),
    "across samples": (lambda x: x - tf.reduce_mean(x, axis=0), "over the samples"),
    "first sample": (lambda x: x * x[:1], "moves whole samples"),
    "mixed": (lambda x: tf.reshape(tf.transpose(x, (1, 0, 2, 3)), (-1, W, C)), "whole samples"),
    "loop": (
        lambda x: tf.while_loop(lambda y: y[0, 0, 0, 0] < 9, lambda y: y + 1, [x])[0],
        "While",
    ),
    "random": (lambda x: x + tf.random.normal((tf.shape(x)[0], 1, 1, 1)), "Random"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_translation_is_named(name):
    function, reason = REFUSED[name]
    with pytest.raises(UnsupportedLayerError, match=reason):
        prepare(image_model(L.Lambda(function, name="culprit", output_shape=(H, W, C))))


def test_every_operator_is_one_of_tensorflow():
    assert all(hasattr(tf.raw_ops, name) for name in OPERATORS)


def test_the_private_name_of_tensorflow_still_gives_a_flat_graph():
    weight = tf.Variable([2.0])
    inner = tf.function(lambda x: x * weight)
    function = tf.function(lambda x: inner(x) + 1.0)
    graph = frozen(function.get_concrete_function(tf.TensorSpec((3,), "float32"))).graph
    types = {operation.type for operation in graph.get_operations()}
    assert "Mul" in types
    assert not types & {"PartitionedCall", "StatefulPartitionedCall", "ReadVariableOp"}


def test_functions_that_xla_compiles_are_a_part_of_the_graph():
    """Keras compiles convolutions of groups, in files that it exports too."""
    compiled = tf.function(lambda x: tf.nn.relu(x) + ROW, jit_compile=True)
    check(image_model(L.Lambda(lambda x: compiled(2.0 * x), output_shape=(H, W, C))))


EXPORTED = {
    "groups": lambda: L.Conv2D(2 * C, 2, groups=C),
    "dilated": lambda: L.Conv2D(3, 2, padding="same", dilation_rate=(2, 3)),
    "depthwise": lambda: L.DepthwiseConv2D(2, dilation_rate=2),
    "normalized": L.UnitNormalization,
}


@pytest.mark.parametrize("name", EXPORTED)
def test_saved_models_that_keras_exports_are_read(name, tmp_path):
    model = image_model(EXPORTED[name]())
    model.export(tmp_path / "saved", verbose=False)
    found = as_functional(tfeptq.load_model(tmp_path / "saved"))
    images = np.random.default_rng(0).normal(size=(N, H, W, C)).astype("float32")
    assert_same(found(images), model(images))
    check(found)


def test_tokens_of_a_saved_model_are_looked_up(tmp_path):
    """Keras counts numbers below zero from the end of a table, in operators of their own."""
    inputs = keras.Input((W,), dtype="int32")
    model = keras.Model(inputs, L.Dense(2)(L.Embedding(9, C)(inputs)))
    model.export(tmp_path / "saved", verbose=False)
    found = prepare(as_functional(tfeptq.load_model(tmp_path / "saved")))
    tokens = np.random.default_rng(0).integers(0, 9, (N, W)).astype("int32")
    assert_same(found(tokens), model(tokens))


def test_a_trace_holds_no_more_than_its_function():
    image = keras.Input((H, W, C))
    outputs = tensorflow_graphs.read(lambda x: [x + 1.0, tf.constant(3.0)], [image])
    assert outputs[0].shape == (None, H, W, C)
    np.testing.assert_array_equal(outputs[1], 3.0)
