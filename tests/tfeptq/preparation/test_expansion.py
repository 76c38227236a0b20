"""Layers made of layers, and subclassed models, are read by their own `call`."""

from __future__ import annotations

import operator as operators

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

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
from tfeptq.preparation import (
    UnsupportedLayerError,
    as_functional,
    prepare,
    variable_operators,
)


class Residual(L.Layer):
    """Sub-layers, a variable of its own, and what is active in training only."""

    def __init__(self, filters, **options):
        super().__init__(**options)
        self.wide = L.Conv2D(filters, 3, padding="same", use_bias=False)
        self.norm = L.BatchNormalization()
        self.narrow = L.Conv2D(filters, 1)

    def build(self, shape):
        self.gain = self.add_weight(shape=(self.narrow.filters,), name="gain")
        self.wide.build(shape)
        self.norm.build((*shape[:-1], self.wide.filters))
        self.narrow.build(shape)

    def call(self, x, training=None):
        y = ops.relu(self.norm(self.wide(x), training=training))
        if training:
            y = y * keras.random.uniform((1,))
        return self.gain * y + self.narrow(x)


class Squashed(L.Dense):
    def call(self, inputs):
        return ops.tanh(super().call(inputs))


class Twins(L.Layer):
    """Two inputs in a dictionary, one keyword, two outputs, a shared sub-layer."""

    def __init__(self, **options):
        super().__init__(**options)
        self.head = L.Dense(N)

    def build(self, shape):
        self.head.build(shape["left"])

    def call(self, inputs, gate, factor=1.0):
        left, right = self.head(inputs["left"]), self.head(inputs["right"])
        return left * factor, right * gate


def test_a_layer_made_of_layers():
    canonical = check(image_model(Residual(N, name="block"), L.ReLU(), Residual(3)))
    names = [layer.name for layer in canonical.layers]
    assert {"block_relu", "block_add"} <= set(names)


def test_layers_of_layers_of_layers():
    class Outer(L.Layer):
        def __init__(self):
            super().__init__()
            self.inner = [Residual(4), Residual(4)]

        def build(self, shape):
            self.inner[0].build(shape)
            self.inner[1].build((*shape[:-1], 4))

        def call(self, x):
            for layer in self.inner:
                x = layer(x)
            return x

    check(image_model(Outer()))


class Told(L.Layer):
    """Says `training` to layers whose `call` does not know it, which Keras does not pass on."""

    def __init__(self, **options):
        super().__init__(**options)
        self.parts = [L.LayerNormalization(), L.Identity(), L.Dense(N), L.ReLU()]

    def build(self, shape):
        for part in self.parts:
            part.build(shape)
            shape = part.compute_output_shape(shape)

    def call(self, x, training=None):
        for part in self.parts:
            x = part(x, training=training)
        return x


class Cached(L.MultiHeadAttention):
    """Its `call` takes what Keras does not ask attention for when it infers shapes."""

    def call(self, query, value, cache=None):
        assert cache is None
        return super().call(query, value)


class Decoder(L.Layer):
    """Gives a constant that nobody needs to read beside its tensor."""

    def __init__(self):
        super().__init__()
        self.attention = Cached(num_heads=2, key_dim=3)

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(x, x, cache=None), ops.zeros((0, 4))


class Scored(L.Layer):
    """Gives None in the place of its scores."""

    def __init__(self, **options):
        super().__init__(**options)
        self.wide = L.Dense(C)

    def build(self, shape):
        self.wide.build(shape)

    def call(self, x, with_scores=False):
        y = ops.tanh(self.wide(x))
        return y + x, y if with_scores else None


def test_layers_are_told_of_training_as_keras_tells_them():
    check(image_model(Told(name="first"), Told(name="second")))


def test_a_layer_that_gives_none_beside_a_tensor_is_read_with_the_layer_around_it():
    class Stack(L.Layer):
        def __init__(self):
            super().__init__()
            self.parts = [Scored(name="first"), Scored(name="second")]

        def build(self, shape):
            for part in self.parts:
                part.build(shape)

        def call(self, x):
            for part in self.parts:
                x, scores = part(x)
                assert scores is None
            return x

        def compute_output_shape(self, shape):
            return shape

    call, canonical = keras.Layer.__call__, check(image_model(Stack()))
    assert sum(isinstance(layer, L.Conv2D | L.Dense) for layer in canonical.layers) == 2
    assert keras.Layer.__call__ is call


def test_a_call_with_more_arguments_than_its_class_and_an_output_that_nobody_reads():
    inputs = keras.Input((W, 4))
    check(randomize(keras.Model(inputs, Decoder()(inputs)[0])))


def test_a_subclass_of_a_layer_is_named_after_itself_and_shares_its_weights():
    inputs = keras.Input((N,))
    layer = Squashed(N, name="squashed")
    model = randomize(keras.Model(inputs, layer(layer(inputs))))
    canonical = check(model)
    dense = [layer for layer in canonical.layers if isinstance(layer, L.Dense)]
    assert [layer.name for layer in dense] == ["squashed"]


def test_calls_with_dictionaries_keywords_and_several_outputs():
    left, right, gate = keras.Input((W,)), keras.Input((W,)), keras.Input((N,))
    outputs = Twins()({"left": left, "right": right}, gate=gate, factor=0.5)
    canonical = check(randomize(keras.Model([left, right, gate], outputs)))
    assert sum(isinstance(layer, L.Dense) for layer in canonical.layers) == 1


def test_lambdas_and_functions_as_activations_are_read():
    def relu(x):
        return ops.tanh(x) * 0.5

    check(image_model(L.Lambda(lambda x: x * 2 + 1), L.Conv2D(N, 3, activation=relu, name="conv")))
    check(image_model(L.Conv2D(N, 3, activation=L.PReLU(shared_axes=[1, 2]), name="conv")))


def test_the_same_layer_read_twice_gives_the_same_names():
    model = image_model(Residual(N), Squashed(2))
    first, second = prepare(model), prepare(model)
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]


def test_what_of_tensorflow_has_no_translation_is_named():
    class Sorted(L.Layer):
        def call(self, x):
            return tf.sort(x)

    with pytest.raises(UnsupportedLayerError, match=r"'odd' \(Sorted\).*operator TopKV2"):
        prepare(image_model(Sorted(name="odd")))


def test_a_part_that_is_not_supported_is_named_with_the_layer_around_it():
    class Odd(L.Layer):
        def call(self, x):
            return ops.sort(x)

    with pytest.raises(UnsupportedLayerError, match=r"'odd' \(Odd\): holds .*'odd' \(Sort\)"):
        prepare(image_model(Odd(name="odd")))


class Network(keras.Model):
    def __init__(self):
        super().__init__()
        self.block, self.flat, self.head = Residual(N), L.Flatten(), Squashed(2)

    def call(self, inputs, training=False):
        return self.head(self.flat(self.block(inputs, training=training)))


def _compare(model, functional, *samples):
    given = samples[0] if len(samples) == 1 else list(samples)
    wanted = keras.tree.flatten(model(given, training=False))
    found = keras.tree.flatten(check(functional)(given))
    for left, right in zip(wanted, found, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5 * np.abs(left).max())


def test_subclassed_models_are_read_with_the_sizes_they_were_built_with():
    images = np.random.default_rng(0).normal(size=(3, H, W, C)).astype("float32")
    model = Network()
    model(images)
    randomize(model)
    functional = as_functional(model)
    assert [tensor.shape for tensor in functional.inputs] == [(None, H, W, C)]
    _compare(model, functional, images)
    assert prepare(functional).inputs[0].name == prepare(as_functional(model)).inputs[0].name


class Tabular(keras.Model):
    """Classes that TensorFlow takes as integers only, beside quantities."""

    def __init__(self):
        super().__init__()
        self.head = L.Dense(2, name="head")

    def call(self, inputs):
        ones = tf.one_hot(inputs["classes"], 5)
        return self.head(tf.concat([tf.reduce_mean(ones, axis=1), inputs["values"]], axis=1))


def test_numbers_of_classes_are_read_as_integers():
    generator, model = np.random.default_rng(0), Tabular()
    values = generator.normal(size=(9, 4)).astype("float32")
    samples = {"classes": generator.integers(0, 5, (9, 3)).astype("int32"), "values": values}
    model(samples)
    found = as_functional(model)
    types = {tensor.name: tensor.dtype for tensor in found.inputs}
    assert types == {"classes": "int32", "values": "float32"}
    assert_same(prepare(found)(samples), model(samples))


def test_nested_subclassed_models_are_read():
    inner = Network()
    inputs = keras.Input((H, W, C))
    check(randomize(keras.Model(inputs, inner(inputs) * 2)))


def test_a_model_that_overrides_call_is_read_as_it_computes():
    class Doubled(keras.Model):
        def call(self, inputs, training=None):
            return 2 * super().call(inputs)

    inputs = keras.Input((W,), name="given")
    model = randomize(Doubled(inputs, L.Dense(2)(inputs)))
    _compare(model, as_functional(model), np.ones((2, W), "float32"))
    with pytest.raises(ValueError, match=r"overrides call\(\)"):
        prepare(model)


def test_input_shape_fixes_what_a_model_leaves_open():
    inputs = keras.Input((None, None, C), name="image")
    outputs = L.GlobalAveragePooling2D()(L.Conv2D(N, 3)(inputs))
    model = randomize(keras.Model(inputs, outputs))
    for shape in ((H, W, C), {"image": (H, W, C)}, [(H, W, C)]):
        functional = as_functional(model, shape)
        assert functional.inputs[0].shape == (None, H, W, C)
        assert prepare(functional).inputs[0].name == "image"
        _compare(model, functional, np.ones((2, H, W, C), "float32"))


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"picture": (H, W, C)}, "no entry for the inputs"),
        ([(H, W, C), (2,)], "2 shapes"),
        ((H, W, 2), "does not take"),
    ],
)
def test_input_shapes_that_do_not_fit_are_refused(shape, reason):
    inputs = keras.Input((None, None, C), name="image")
    with pytest.raises(ValueError, match=reason):
        as_functional(keras.Model(inputs, L.Conv2D(N, 3)(inputs)), shape)


def test_a_model_that_was_never_built_needs_its_input_shape():
    with pytest.raises(ValueError, match="never built"):
        as_functional(Network())
    assert as_functional(Network(), (H, W, C)).outputs[0].shape == (None, 2)


def test_a_subclassed_model_that_cannot_be_read_says_why():
    class Foreign(keras.Model):
        def call(self, inputs):
            return tf.cumsum(inputs, axis=1)

    model = Foreign()
    model(np.ones((2, 3), "float32"))
    with pytest.raises(ValueError, match="TensorFlow operator Cumsum"):
        as_functional(model)


@pytest.mark.parametrize("operator", variable_operators.OPERATORS)
def test_variables_stand_on_the_left_of_symbolic_tensors_while_a_call_is_read(operator):
    variable, tensor = keras.Variable(np.ones((3, 3))), keras.KerasTensor((3, 3))
    method = getattr(operators, operator)
    before = dict(vars(keras.Variable))
    with variable_operators.reflected():
        assert isinstance(method(variable, tensor), keras.KerasTensor)
        assert not isinstance(method(variable, variable), keras.KerasTensor)
    assert dict(vars(keras.Variable)) == before


def test_what_needs_the_number_of_samples_is_read_with_one():
    class Places(L.Layer):
        """A constant for every sample, as position embeddings make it."""

        def build(self, shape):
            self.value = self.add_weight(shape=shape[1:], name="value")

        def call(self, x):
            return ops.broadcast_to(ops.convert_to_tensor(self.value), ops.shape(x))

    inputs = keras.Input((W, C))
    check(randomize(keras.Model(inputs, inputs + 2 * Places()(inputs))))
