"""What `prepare` got wrong is found on values and named; what is right passes, in any units."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L
from keras import ops

import tfeptq
from tests.tfeptq.preparation.canonical_check import C, H, W, image_model, randomize
from tests.tfeptq.preparation.random_graphs import RandomGraph
from tfeptq.preparation import (
    UnsupportedLayerError,
    activations,
    affine,
    as_functional,
    layers,
    prepare,
    prove,
)


def samples_of(model: keras.Model, count: int = 16, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=(count, *t.shape[1:])).astype("float32") for t in model.inputs]


def proven(model: keras.Model, samples: list[np.ndarray] | None = None) -> None:
    prove(model, prepare(model), samples_of(model) if samples is None else samples)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_right_models_pass(seed):
    proven(randomize(RandomGraph(seed).model(6), seed))


def wrong(monkeypatch, kind: type) -> None:
    """Makes `prepare` forget all but the first input of a layer."""
    monkeypatch.setitem(layers.LAYERS, kind, lambda layer, inputs, shared: inputs[0])


def branches() -> keras.Model:
    inputs = keras.Input((H, W, C))
    x = L.Conv2D(C, 3, padding="same", name="conv")(inputs)
    x = L.ReLU(name="relu")(L.BatchNormalization(name="norm")(x))
    x = L.Average(name="mean")([x, inputs])
    return randomize(keras.Model(inputs, L.Dense(4, name="head")(L.Flatten()(x)), name="m"))


def test_a_wrong_layer_is_named(monkeypatch):
    wrong(monkeypatch, L.Average)
    with pytest.raises(UnsupportedLayerError, match=r"layer 'mean' \(Average\): differs.*output 0"):
        proven(branches())


def test_a_wrong_fold_is_named(monkeypatch):
    def forgets_the_offset(reader, given):
        kernel, bias = reader.weights.arrays
        reader.weights.arrays = [kernel * given.scale.reshape(-1)[0], bias]

    monkeypatch.setattr(affine, "_absorb", forgets_the_offset)
    model = image_model(L.Rescaling(2.0, 0.5), L.Dense(2, name="dense"), L.ReLU())
    with pytest.raises(UnsupportedLayerError, match=r"layer 'dense' \(Dense\): differs"):
        proven(model)


def test_the_road_and_the_callback_and_the_frontier_prove(monkeypatch):
    wrong(monkeypatch, L.Average)
    model = branches()
    model.compile("sgd", "mse")
    data = samples_of(model)
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=16)
    with pytest.raises(UnsupportedLayerError, match="'mean'"):
        tfeptq.quantize(model, data, config)
    choices = tfeptq.QuantizationConfig(rounding="nearest", samples=16, weight_bits=(4, 8))
    with pytest.raises(UnsupportedLayerError, match="'mean'"):
        tfeptq.pareto_frontier(model, data, choices)
    callback = tfeptq.QuantizationCallback(data, config)
    before = model.get_weights()
    with pytest.raises(UnsupportedLayerError, match="'mean'"):
        model.fit(data[0], np.zeros((16, 4)), callbacks=[callback], verbose=0)
    for left, right in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_wrong_layer_inside_a_model_that_takes_one_sample_at_a_time(monkeypatch):
    wrong(monkeypatch, L.Maximum)
    inputs = keras.Input((H, W, C))
    x = ops.concatenate([inputs, np.ones((1, H, W, 1), "float32")], axis=-1)
    x = L.Maximum(name="largest")([x, L.Permute((1, 2, 3))(x * 2.0)])
    with pytest.raises(UnsupportedLayerError, match="'largest'"):
        proven(keras.Model(inputs, x))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: ops.log(x - 3.0), "log"),
        (lambda x: 1.0 / ops.relu(x - 3.0), "true_divide"),
        (lambda x: ops.sqrt(x - 3.0) * 0.0 + x, "sqrt"),
    ],
)
def test_what_the_float_model_does_not_compute_is_its_own_fault(function, name):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, function(keras.layers.Dense(3, name="dense")(inputs)))
    samples = [np.random.default_rng(0).normal(size=(16, 4)).astype("float32")]
    with pytest.raises(ValueError, match=f"layer '{name}.*computes NaN or inf.*the float model"):
        prove(model, prepare(model), samples)


def test_a_difference_of_equal_branches_is_no_difference():
    # The original gives exact zeros, the canonical model what float32 leaves of folded weights.
    left, right = keras.Input((8,)), keras.Input((8,))
    shared = keras.Sequential([keras.Input((8,)), L.Dense(16), L.BatchNormalization()])
    model = randomize(keras.Model([left, right], L.Subtract()([shared(left), shared(right)])))
    data = samples_of(model)
    proven(model, [data[0], data[0]])


def test_exact_zeros_are_no_difference():
    # The canonical minimum subtracts a number and adds it again; what it leaves is no zero.
    model = image_model(L.Conv2D(4, 1))
    made = ops.square(model.output)
    proven(keras.Model(model.input, ops.minimum(made, 1e4) - made))


def test_statistics_far_from_zero_are_no_difference():
    # A bias of a million that the normalization takes away again: float32 keeps a sixteenth.
    model = image_model(L.Conv2D(4, 1, name="conv"), L.BatchNormalization(name="norm"), L.ReLU())
    model.get_layer("conv").bias.assign([1e6] * 4)
    model.get_layer("norm").moving_mean.assign([1e6] * 4)
    proven(model)


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_units_do_not_matter(unit):
    model = image_model(L.Rescaling(1 / unit), L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU())
    proven(model, [samples_of(model)[0] * np.float32(unit)])


def test_random_layers_are_compared_at_inference():
    proven(image_model(L.GaussianNoise(1.0), L.Conv2D(4, 1), L.Dropout(0.5), L.RandomFlip()))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_inputs_of_integers(dtype):
    inputs = keras.Input((H, W, C), dtype=dtype)
    x = L.Conv2D(4, 1)(L.Rescaling(1 / 127.5, -1.0)(inputs))
    model = keras.Model(inputs, x)
    proven(model, [np.random.default_rng(0).uniform(0, 2, (16, H, W, C)).astype("float32")])


def test_half_precision_is_compared_as_coarsely_as_it_computes():
    inputs = keras.Input((H, W, C))
    x = L.Conv2D(4, 3, dtype="mixed_float16")(inputs)
    x = L.Conv2D(4, 3, dtype="mixed_float16")(L.ReLU(dtype="mixed_float16")(x))
    proven(randomize(keras.Model(inputs, L.Flatten(dtype="float32")(x))))


def test_arithmetic_of_integers_that_wraps_is_found():
    inputs = keras.Input((H, W, C), dtype="uint8")
    model = keras.Model(inputs, L.Rescaling(1 / 255)(ops.add(inputs, np.uint8(200))))
    pixels = np.random.default_rng(0).integers(0, 256, (16, H, W, C)).astype("float32")
    with pytest.raises(UnsupportedLayerError, match=r"\(Add\): differs"):
        proven(model, [pixels])


def test_a_model_that_cannot_compute_its_samples_says_so():
    inputs = keras.Input((H, W, C))
    layer = L.ReLU()
    model = keras.Model(inputs, layer(inputs))
    canonical = prepare(model)
    layer.call = lambda x: ops.reshape(x, (7, 7))
    with pytest.raises(ValueError, match=r"cannot compute its calibration samples"):
        prove(model, canonical, samples_of(model))


@pytest.mark.parametrize("count", [1, 2, 4, 5, 7, 8])
def test_one_number_a_sample_is_no_bias_in_any_batch(count):
    """Keras's own sums take it for one in batches of 5, where rows or channels are 5."""
    inputs = keras.Input((5, 7))
    number = L.Dense(1, name="number")(L.GlobalAveragePooling1D(keepdims=True)(inputs))
    row = L.Dense(1, name="row")(inputs)
    outer = ops.add(row, L.Permute((2, 1))(row))
    sums = [ops.add(inputs, number), ops.add(outer, number), L.Add()([inputs, row])]
    model = randomize(keras.Model(inputs, L.Concatenate()(sums)))
    (samples,) = samples_of(model, 16)
    canonical = prepare(model)
    prove(model, canonical, [samples])
    found = np.asarray(canonical(samples[:count], training=False))
    numbers, rows = (np.asarray(keras.Model(inputs, t)(samples[:count])) for t in (number, row))
    given = samples[:count]
    wanted = [given + numbers, rows + rows.transpose(0, 2, 1) + numbers, given + rows]
    np.testing.assert_allclose(found, np.concatenate(wanted, -1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [2, 5, 8])
def test_a_sum_that_keras_misreads_in_batches_of_some_size_is_proven(size):
    inputs = keras.Input((3, size))
    number = L.Dense(1)(L.GlobalMaxPooling1D(keepdims=True)(inputs))
    proven(randomize(keras.Model(inputs, ops.add(inputs, number))))


class Sampling(L.Layer):
    """The draw of a variational autoencoder."""

    def call(self, mean, deviation):
        return mean + deviation * keras.random.normal(ops.shape(mean))


def encoder() -> keras.Model:
    inputs = keras.Input((H, W, C))
    x = L.Flatten()(L.Conv2D(4, 3, activation="relu")(inputs))
    mean, deviation = L.Dense(5, name="mean")(x), L.Dense(5, name="deviation")(x)
    drawn = Sampling(name="drawn")(mean, deviation)
    return randomize(keras.Model(inputs, [mean, L.Dense(3, name="behind")(drawn)]))


def test_what_is_drawn_is_no_constant():
    """A draw of its own for the file: its values were those of no sample."""
    model = encoder()
    with pytest.raises(UnsupportedLayerError, match=r"'drawn' \(Sampling\).*each time.*outputs="):
        proven(model)
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=16, outputs=["mean"])
    quantized = tfeptq.quantize(model, samples_of(model), config)
    assert quantized.report.quality.outputs[0].sqnr > 20.0


def test_what_a_subclassed_model_draws_is_named():
    class Drawing(keras.Model):
        def __init__(self):
            super().__init__(name="drawing")
            self.head = L.Dense(3)

        def call(self, x):
            return self.head(x + keras.random.normal(ops.shape(x)))

    model = Drawing()
    model(np.zeros((2, 4), "float32"))
    with pytest.raises(ValueError, match=r"model 'drawing'.*each time, as random numbers do"):
        as_functional(model)


def test_a_canonical_model_of_nothing_but_roundings_does_not_excuse_itself(monkeypatch):
    """The ReLU of x + 1e9, minus 1e9: its own noise is as large as what it gets wrong."""
    monkeypatch.setattr(activations, "_FAR", np.inf)
    inputs = keras.Input((H, C))
    x = ops.maximum(L.Dense(4)(inputs), -1e9)
    with pytest.raises(UnsupportedLayerError, match=r"\(Maximum\): differs from the model"):
        proven(keras.Model(inputs, L.Dense(2)(x)))
