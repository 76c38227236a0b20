"""Traces and errors of activations against dense Hessians and measured losses."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.hessian.activations import Grid, activation_moments
from tfeptq.hessian.distillation import SelfDistillation
from tfeptq.hessian.pairs import RoundingError, pair_terms
from tfeptq.hessian.traces import average_traces, tensor_name
from tfeptq.preparation import prepare

H, W, C, N, K = 5, 4, 3, 6, 7
IMAGES = [np.random.default_rng(0).normal(size=(N, H, W, C)).astype("float32")]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((H, W, C), name="image")
    x = L.Conv2D(2, (3, 2), padding="same", strides=2, activation="tanh", name="conv")(inputs)
    x = L.Conv2D(2, 1, activation="sigmoid", name="next")(x)
    x = L.Dense(K, activation="softmax", name="logits")(L.Flatten()(x))
    return prepare(keras.Model(inputs, x))


@pytest.fixture(scope="module")
def grids(model):
    tanh = next(call for call in LayerGraph.of(model).calls if "tanh" in call.layer.name)
    return [
        Grid((("image", 0),), 0.6, 2, 8),
        Grid((tanh.output,), 0.2, 125, 8),
        Grid((("image", 0), tanh.output), 0.05, 0, 8),
        Grid((tanh.output,), 1e-4, 0, 16),
    ]


def rounded(values, grid):
    low, high = (-32768, 32767) if grid.bits == 16 else (-128, 127)
    codes = np.clip(np.round(values / grid.scale) + grid.zero_point, low, high)
    return ((codes - grid.zero_point) * grid.scale).astype("float32")


def shifted(model, offsets):
    """All tensors where some were moved: key -> what is added."""
    graph = LayerGraph.of(model)
    inputs = [tf.constant(IMAGES[0]) + offsets.get(graph.inputs[0], 0.0)]

    def shift(call, _, output):
        return output + offsets.get(call.output, 0.0)

    return graph.execute(inputs, hook=shift)


def dense_hessians(model, key):
    """Hessian of every sample's divergence in one tensor, (N, elements, elements)."""
    distillation, clean = SelfDistillation(model), shifted(model, {})
    offset = tf.zeros_like(clean[key])
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(offset)
        with tf.GradientTape() as inner:
            inner.watch(offset)
            divergence = distillation.divergence(clean, shifted(model, {key: offset}))
        gradient = tf.reshape(inner.gradient(divergence, offset), [N, -1])
    jacobian = outer.batch_jacobian(gradient, offset, experimental_use_pfor=False)
    return jacobian.numpy().reshape(N, gradient.shape[1], -1)


def test_traces_are_those_of_dense_hessians(model, grids):
    moments = activation_moments(model, IMAGES, grids, is_whitened=True, batch_size=3)
    expected = {}
    for grid in grids[:2]:
        (key,) = grid.keys
        traces = [np.trace(block) for block in dense_hessians(model, key)]
        expected[key] = np.mean(traces)
        index = grids.index(grid)
        assert moments.traces[index] == pytest.approx(expected[key], rel=1e-3)
        error = np.std(traces, ddof=1) / np.sqrt(N)
        assert moments.trace_errors[index] == pytest.approx(error, rel=1e-2)
    assert moments.traces[2] == pytest.approx(sum(expected.values()), rel=1e-3)
    sizes = {grid.keys[0]: size for grid, size in zip(grids[:2], moments.sizes, strict=False)}
    assert list(sizes.values()) == [H * W * C, 3 * 2 * 2]
    assert moments.sizes[2] == sum(sizes.values())


def test_errors_are_those_of_the_grid(model, grids):
    moments = activation_moments(model, IMAGES, grids, is_whitened=True)
    tensors = shifted(model, {})
    for index, grid in enumerate(grids):
        values = [np.asarray(tensors[key]).reshape(N, -1) for key in grid.keys]
        squares = [np.square(rounded(value, grid) - value).sum(1) for value in values]
        assert moments.squares[index] == pytest.approx(np.sum(squares, axis=0).mean(), rel=1e-3)


def test_weighted_errors_use_the_jacobian_of_every_element(model, grids):
    moments = activation_moments(model, IMAGES, grids, is_whitened=False)
    key, graph = grids[1].keys[0], LayerGraph.of(model)
    values = shifted(model, {})[key]
    offset = tf.zeros_like(values)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(offset)
        logits = shifted(model, {key: offset})[SelfDistillation(model).keys[0]]
    jacobian = tape.batch_jacobian(logits, offset, experimental_use_pfor=False).numpy()
    scores = np.square(jacobian).sum(axis=1)
    errors = np.square(rounded(values.numpy(), grids[1]) - values.numpy())
    expected = (scores * errors).reshape(N, -1).sum(1).mean()
    assert moments.weighted[1] == pytest.approx(expected, rel=1e-3)
    assert graph.outputs[0] != SelfDistillation(model).keys[0]


def test_pair_terms_of_activations_and_weights_are_those_of_forward_passes(model, grids):
    kernel = np.asarray(model.get_layer("next").kernel)
    direction = 0.05 * np.random.default_rng(1).normal(size=kernel.shape).astype("float32")
    fine = [Grid(grid.keys, grid.scale / 4, 0, 8) for grid in grids[:2]]
    errors = {(f"a{i}", grid.bits): grid for i, grid in enumerate(fine)}
    errors["next", 2] = RoundingError(direction, np.zeros(2, "float32"))
    matrix = pair_terms(model, IMAGES, errors, batch_size=3).terms
    distillation, clean = SelfDistillation(model), shifted(model, {})
    moves = [
        {key: tf.constant(rounded(clean[key].numpy(), grid)) - clean[key] for key in grid.keys}
        for grid in fine
    ]

    def measured(*which):
        offsets = {key: move for i in which if i < 2 for key, move in moves[i].items()}
        model.get_layer("next").kernel.assign(kernel + direction * (2 in which))
        found = distillation.divergence(clean, shifted(model, offsets))
        model.get_layer("next").kernel.assign(kernel)
        return float(tf.reduce_mean(found))

    scale = np.sqrt(np.outer(np.diag(matrix), np.diag(matrix)))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert 2 * measured(i) == pytest.approx(matrix[i, i], rel=0.1)
        term = measured(i, j) - measured(i) - measured(j)
        assert term == pytest.approx(matrix[i, j], abs=0.1 * scale[i, j])


def test_traces_by_probes_are_those_of_the_closed_form(model, grids):
    keys = [grid.keys[0] for grid in grids[:2]]
    moments = activation_moments(model, IMAGES, grids[:2], is_whitened=True, count=N, batch_size=N)
    traces = average_traces(model, IMAGES, keys=keys, batch_size=N, tolerance=0.0, draws=(2, 300))
    for index, key in enumerate(keys):
        expected = moments.traces[index] / moments.sizes[index]
        found, error = (of[tensor_name(key)] for of in (traces.mean, traces.error))
        assert abs(found - expected) < 4 * error < expected


def test_traces_in_a_loss_with_labels_are_of_every_samples_block():
    """Cubes of residuals: what the Hessian is depends on the labels, sample by sample."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((C,), name="x")
    model = prepare(keras.Model(inputs, L.Dense(K, name="a")(inputs)))
    x, y = (np.random.default_rng(1).normal(size=(N, s)).astype("float32") for s in (C, K))

    def cubic(outputs, labels):
        return tf.reduce_mean(tf.reduce_sum((outputs[0] - labels) ** 3, axis=1))

    keys = [("x", 0), ("a", 0)]
    settings = {"batch_size": N, "tolerance": 0.0, "draws": (2, 400)}
    traces = average_traces(model, [x], keys=keys, labels=y, loss=cubic, **settings)
    residual, kernel = np.asarray(model(x)) - y, np.asarray(model.get_layer("a").kernel)
    expected = {
        "x:0": (6 * residual * np.square(kernel).sum(0)).sum(1).mean() / C,
        "a:0": (6 * residual).sum(1).mean() / K,
    }
    for name, value in expected.items():
        assert abs(traces.mean[name] - value) < 4 * traces.error[name]
