"""The topology is read by having Keras walk through the model, without any configuration."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from tests.tfeptq.preparation.canonical_check import C, H, N, W, check, randomize
from tfeptq.preparation.trace import trace


class Unspeakable:
    """An initializer, regularizer or constraint that Keras cannot describe."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, *arguments, **options):
        if options or isinstance(arguments[0], tuple):
            return ops.ones(arguments[0]) * self.factor
        return arguments[0]


def test_layers_that_keras_cannot_describe_need_no_description():
    inputs = keras.Input((H, W, C))
    x = L.Conv2D(N, 3, kernel_initializer=Unspeakable(0.1), name="conv")(inputs)
    x = L.BatchNormalization(gamma_constraint=Unspeakable(1.0))(x)
    x = L.Rescaling(np.arange(1.0, N + 1))(x)
    model = randomize(keras.Model(inputs, L.Dense(2, bias_initializer=Unspeakable(0.2))(x)))
    with pytest.raises((NotImplementedError, TypeError, ValueError)):
        model.get_config()
    check(model)


SETTINGS = {
    "clip": lambda x: ops.clip(x, np.float32(-0.5), np.float64(0.75)),
    "reshape": lambda x: ops.reshape(x, (-1, np.int64(W), H * C)),
    "mean": lambda x: ops.mean(x, axis=(np.int64(1), np.int64(2))),
    "split": lambda x: ops.split(x, [np.int64(1)], axis=np.int64(-1))[1],
    "softmax": lambda x: ops.softmax(x, axis=np.int64(-1)),
    "leaky": lambda x: ops.leaky_relu(x, negative_slope=np.float32(0.3)),
    "pool": lambda x: ops.max_pool(x, (np.int64(2), 2), strides=np.int64(1)),
    "resize": lambda x: ops.image.resize(x, (np.int64(2 * H), W)),
    "concatenate": lambda x: ops.concatenate([x, x], axis=np.int64(2)),
    "conv": lambda x: ops.conv(x, np.ones((2, 2, C, N), "float32"), strides=np.int64(2)),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_may_be_numbers_and_arrays_of_numpy(name):
    inputs = keras.Input((H, W, C))
    check(keras.Model(inputs, SETTINGS[name](inputs)))


def test_calls_come_in_order_with_what_the_user_gave():
    first, second = keras.Input((N,), name="first"), keras.Input((N,), name="second")
    shared = L.Dense(N)
    inner = keras.Model(first, L.ReLU()(first))
    array = np.ones((1, N), "float32")
    x = L.Add()([shared(first), shared(second)])
    outputs = [ops.subtract(array, inner(x)), x, second]
    traced = trace(keras.Model([second, first], outputs))
    kinds = [type(call.operation).__name__ for call in traced.calls]
    assert kinds == ["Dense", "Dense", "Add", "Functional", "Subtract"]
    assert traced.calls[0].operation is traced.calls[1].operation is shared
    add, nested, subtract = traced.calls[2:]
    assert {*add.arguments[0]} == {call.outputs[0] for call in traced.calls[:2]}
    assert subtract.arguments[1] is nested.outputs[0]
    np.testing.assert_array_equal(subtract.arguments[0], array)
    assert [given.name for given in traced.inputs] == ["second", "first"]
    assert traced.outputs == (subtract.outputs[0], add.outputs[0], traced.inputs[0].symbol)


def test_a_trace_leaves_no_calls_behind():
    inputs = keras.Input((H, W, C))
    layer = L.Conv2D(N, 3)
    model = keras.Model(inputs, layer(inputs))
    before = layer.output
    trace(model)
    assert layer.output is before
    assert keras.Model(inputs, layer.output).count_params() == model.count_params()


def test_inputs_have_the_names_of_their_layers():
    unnamed = keras.Input((W,))
    model = keras.Model(unnamed, L.Dense(2)(unnamed))
    # Keras calls the tensor otherwise.
    assert unnamed.name != model.layers[0].name
    (given,) = trace(model).inputs
    assert given.name == model.layers[0].name
