"""Layers of the user's own, by what they decompose into."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import tfeptq
from tests.tfeptq.preparation.canonical_check import C, H, W, check, image_model
from tfeptq.preparation import UnsupportedLayerError, prepare, registered


@pytest.fixture(autouse=True)
def _forgotten():
    """Registrations last as long as a test."""
    before = dict(registered._DECOMPOSITIONS)
    yield
    registered._DECOMPOSITIONS.clear()
    registered._DECOMPOSITIONS.update(before)


class Filter(L.Layer):
    """Looks at values, which no symbolic tensor has."""

    def __init__(self, filters, **options):
        super().__init__(**options)
        self.filters = filters

    def build(self, shape):
        self.kernel = self.add_weight(shape=(3, 3, shape[-1], self.filters), name="kernel")

    def call(self, x, training=None):
        rows = [ops.conv(x[i : i + 1], self.kernel, padding="same") for i in range(len(x))]
        return ops.relu(ops.concatenate(rows, axis=0))

    def compute_output_spec(self, x, training=None):
        return keras.KerasTensor((*x.shape[:-1], self.filters), x.dtype)


def decompose(layer, x):
    return ops.relu(ops.conv(x, layer.kernel, padding="same"))


def test_a_registered_layer_is_what_it_decomposes_into():
    model = image_model(Filter(4, name="filter"), L.ReLU(), Filter(5, name="second"))
    with pytest.raises(UnsupportedLayerError, match=r"layer 'filter' \(Filter\)"):
        prepare(model)
    assert tfeptq.register_layer(Filter, decompose) is decompose
    names = [layer.name for layer in check(model).layers]
    assert {"filter", "second"} <= set(names)


def test_the_whole_road():
    tfeptq.register_layer(Filter)(decompose)
    model = image_model(Filter(4, name="filter"), L.Flatten(), L.Dense(3))
    samples = np.random.default_rng(0).normal(size=(16, H, W, C)).astype("float32")
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=16, weight_bits={"filter": 4})
    quantized = tfeptq.quantize(model, samples, config)
    assert quantized.bit_widths["filter"][0] == 4


def test_it_takes_the_arguments_of_the_call():
    class Blend(L.Layer):
        def call(self, inputs, factor, training=None):
            left, right = inputs
            return ops.convert_to_tensor(np.asarray(left) * factor + np.asarray(right))

        def compute_output_spec(self, inputs, factor, training=None):
            return keras.KerasTensor(inputs[0].shape, inputs[0].dtype)

    @tfeptq.register_layer(Blend)
    def blend(layer, inputs, factor, training):
        assert training is False
        return inputs[0] * factor + inputs[1]

    left, right = keras.Input((W,)), keras.Input((W,))
    model = keras.Model([left, right], Blend()([left, right], factor=0.5))
    values = [np.full((2, W), 3.0), np.full((2, W), 1.0)]
    np.testing.assert_allclose(prepare(model)(values), np.full((2, W), 2.5))


def test_a_wrong_decomposition_is_found_on_values():
    class Tripled(L.Layer):
        def call(self, x):
            return 3.0 * x

    tfeptq.register_layer(Tripled, lambda layer, x: 2.0 * x)
    samples = np.ones((8, H, W, C), "float32")
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=8)
    with pytest.raises(UnsupportedLayerError, match=r"\(Tripled\): differs from the model"):
        tfeptq.quantize(image_model(Tripled(), L.Conv2D(2, 3)), samples, config)


def test_derived_classes_are_read_by_their_own_call():
    class Plus(Filter):
        def call(self, x, training=None):
            return x + 1.0

        def compute_output_spec(self, x, training=None):
            return keras.KerasTensor(x.shape, x.dtype)

    tfeptq.register_layer(Filter, decompose)
    check(image_model(Plus(4)))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("Filter", decompose), "must be a class derived from keras.Layer"),
        ((Filter(3), decompose), "must be a class derived from keras.Layer"),
        ((L.Dense, decompose), "Dense is supported as it is"),
        ((Filter, "decompose"), "must be a function of a layer"),
    ],
)
def test_mistakes(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        tfeptq.register_layer(*arguments)
