"""Traces and pair terms against closed forms, dense Hessians and measured losses."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.hessian import labelled, pairs, probes
from tfeptq.hessian.activations import Grid
from tfeptq.hessian.distillation import SelfDistillation
from tfeptq.hessian.labelled import LabelledLoss
from tfeptq.hessian.pairs import RoundingError, pair_terms
from tfeptq.hessian.traces import HessianProducts, as_arrays, average_traces, from_arrays
from tfeptq.preparation import prepare

H, W, C, N, K = 5, 4, 3, 6, 4
GENERATOR = np.random.default_rng(0)
IMAGES = [GENERATOR.normal(size=(N, H, W, C)).astype("float32")]


def convolutional(squash="softmax"):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((H, W, C))
    x = L.Conv2D(2, (3, 2), padding="same", strides=2, activation="relu", name="conv")(inputs)
    x = L.DepthwiseConv2D((2, 3), padding="same", name="depthwise")(x)
    x = L.GlobalAveragePooling2D()(L.Activation("tanh")(x))
    return prepare(keras.Model(inputs, L.Dense(K, activation=squash, name="logits")(x)))


def kernels(model):
    return [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]


def divergence(model, values):
    """Mean divergence of `model` with other kernels from itself, by a plain forward pass."""
    graph, distillation = LayerGraph.of(model), SelfDistillation(model)
    inputs = [tf.constant(array) for array in IMAGES]
    reference = graph.execute(inputs)
    old = [np.asarray(kernel) for kernel in kernels(model)]
    for kernel, value in zip(kernels(model), values, strict=True):
        kernel.assign(value)
    found = float(tf.reduce_mean(distillation.divergence(reference, graph.execute(inputs))))
    for kernel, value in zip(kernels(model), old, strict=True):
        kernel.assign(value)
    return found


def dense_hessian(model):
    """Every column by a product with a unit vector: (weights, weights)."""
    products = HessianProducts(model)
    shapes = [tuple(kernel.shape) for kernel in kernels(model)]
    sizes = np.cumsum([0, *products.sizes])
    inputs = [tf.constant(array) for array in IMAGES]
    columns = []
    for unit in np.eye(sizes[-1], dtype="float32"):
        parts = [unit[a:b].reshape(s) for a, b, s in zip(sizes, sizes[1:], shapes, strict=False)]
        result = products.products(inputs, [tf.constant(part) for part in parts])
        columns.append(np.concatenate([part.numpy().reshape(-1) for part in result]))
    return np.array(columns), sizes


@pytest.fixture(scope="module")
def dense():
    model = convolutional()
    return model, *dense_hessian(model)


def test_the_hessian_is_symmetric_and_positive_semidefinite(dense):
    _, hessian, _ = dense
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-5)
    assert np.linalg.eigvalsh(hessian).min() > -1e-5


def test_the_hessian_is_that_of_measured_losses(dense):
    model, hessian, sizes = dense
    values = [np.asarray(kernel) for kernel in kernels(model)]
    direction = GENERATOR.normal(size=sizes[-1]).astype("float32") * 1e-2
    moved = [
        value + direction[a:b].reshape(value.shape)
        for value, a, b in zip(values, sizes, sizes[1:], strict=False)
    ]
    assert divergence(model, moved) == pytest.approx(0.5 * direction @ hessian @ direction, rel=0.1)


def test_traces_are_those_of_the_dense_hessian_within_their_errors(dense):
    model, hessian, sizes = dense
    rough = {"conv": 0.1, "depthwise": 3.0}
    traces = average_traces(
        model, IMAGES, curvatures=rough, batch_size=N, tolerance=0.0, draws=(2, 400)
    )
    for index, name in enumerate(("conv", "depthwise", "logits")):
        block = slice(sizes[index], sizes[index + 1])
        expected = np.trace(hessian[block, block]) / (sizes[index + 1] - sizes[index])
        assert abs(traces.mean[name] - expected) < 4 * traces.error[name]
        assert traces.error[name] < 0.2 * expected


def test_traces_of_a_linear_network_with_squared_error_in_closed_form():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((C,))
    model = prepare(keras.Model(inputs, L.Dense(K, name="b")(L.Dense(5, name="a")(inputs))))
    x = GENERATOR.normal(size=(N, C)).astype("float32")
    a, b = (np.asarray(model.get_layer(name).kernel) for name in "ab")
    traces = average_traces(model, [x], batch_size=N, tolerance=0.0, draws=(2, 300))
    # y = x A B: Tr H_B = K |xA|^2 and Tr H_A = |x|^2 |B|^2, means over samples.
    expected = {
        "a": np.square(x).sum(1).mean() * np.square(b).sum() / a.size,
        "b": np.square(x @ a).sum(1).mean() * K / b.size,
    }
    for name, value in expected.items():
        assert abs(traces.mean[name] - value) < 4 * traces.error[name]


def test_labels_and_a_loss_give_the_hessian_of_that_loss():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((C,))
    model = prepare(keras.Model(inputs, L.Dense(K, name="a")(inputs)))
    x, y = (GENERATOR.normal(size=(N, size)).astype("float32") for size in (C, K))

    def cubic(outputs, labels):
        return tf.reduce_mean(tf.reduce_sum((outputs[0] - labels) ** 3, axis=1))

    traces = average_traces(
        model, [x], labels=y, loss=cubic, batch_size=N, tolerance=0.0, draws=(2, 400)
    )
    residual = np.asarray(model(x)) - y
    expected = (6 * residual.sum(1) * np.square(x).sum(1)).mean() / (C * K)
    assert abs(traces.mean["a"] - expected) < 4 * traces.error["a"]


@pytest.mark.parametrize(
    ("compiled", "delta"), [(keras.losses.Huber(delta=0.5), 0.5), ("huber", 1.0)]
)
def test_labels_with_a_compiled_model_give_the_hessian_of_its_loss(compiled, delta):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((C,))
    dense = L.Dense(K, name="a", kernel_regularizer="l2", kernel_initializer="he_normal")
    model = keras.Model(inputs, dense(inputs))
    model.compile(loss=compiled)
    x, y = (GENERATOR.normal(size=(N, size)).astype("float32") for size in (C, K))
    loss = LabelledLoss(model, y)
    traces = average_traces(
        prepare(model), [x], labels=y, loss=loss, batch_size=N, tolerance=0.0, draws=(2, 400)
    )
    # Curvature 1 within delta and 0 outside, averaged over samples and outputs.
    inside = np.abs(np.asarray(model(x)) - y) < delta
    assert 0 < inside.sum() < inside.size
    expected = (np.square(x).sum(1) * inside.sum(1)).mean() / K / (C * K)
    assert abs(traces.mean["a"] - expected) < 4 * traces.error["a"] + 1e-6
    assert loss.name.startswith("huber")


def test_results_are_kept_by_the_settings_of_a_loss():
    keys = set()
    for loss in (keras.losses.Huber(delta=0.5), keras.losses.Huber(delta=1.0), "mse"):
        model = keras.Sequential([keras.Input((C,)), L.Dense(K)])
        model.compile(loss=loss)
        parts = LabelledLoss(model, np.zeros((N, K), "float32")).digest_parts
        keys.add(b"".join(array.tobytes() for array in parts))
    assert len(keys) == 3


def test_labels_are_checked_in_parts_to_the_last(monkeypatch):
    """All of them at once would be outputs of a data set in memory."""
    monkeypatch.setattr(labelled, "_CHECKED_VALUES", 3 * K)
    asked = []

    def loss(y, outputs):
        asked.append(len(outputs))
        return keras.losses.mean_squared_error(y, outputs)

    model = keras.Sequential([keras.Input((C,)), L.Dense(K)])
    model.compile(loss=loss)
    labels = np.zeros((7, K), "float32")
    LabelledLoss(model, labels)
    assert asked == [3, 3, 1]
    labels[-1] = np.nan
    with pytest.raises(ValueError, match="it is nan"):
        LabelledLoss(model, labels)


def test_the_stopping_rule_ends_early_and_reports_its_error():
    model = convolutional()
    loose = average_traces(model, IMAGES, batch_size=N, tolerance=0.5, draws=(5, 200))
    assert 5 <= loose.draws < 200
    assert loose.relative_error < 0.5


def test_traces_can_be_kept_and_read_back():
    with pytest.warns(UserWarning, match="after 2 draws the standard error"):
        traces = average_traces(convolutional(), IMAGES, tolerance=1e-6, draws=(2, 2))
    assert from_arrays(as_arrays(traces)) == traces


def errors_of(model, scale):
    """A random error a layer, of equal size relative to its weights."""
    result = {}
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel = np.asarray(layer.kernel)
            error = scale * np.abs(kernel).mean() * GENERATOR.normal(size=kernel.shape)
            bias = np.zeros(layer.bias.shape, "float32")
            result[layer.name, 2] = RoundingError(error.astype("float32"), bias)
    return result


@pytest.mark.parametrize("squash", ["softmax", "sigmoid", "linear"])
def test_pair_terms_are_hessian_vector_products(squash):
    model = convolutional(squash)
    errors = errors_of(model, 0.1)
    matrix = pair_terms(model, IMAGES, errors, batch_size=3).terms
    products = HessianProducts(model)
    inputs = [tf.constant(array) for array in IMAGES]
    vectors = [error.kernel for error in errors.values()]
    for index in range(len(vectors)):
        vector = [v if i == index else np.zeros_like(v) for i, v in enumerate(vectors)]
        image = products.products(inputs, [tf.constant(v) for v in vector])
        row = [np.sum(e * u.numpy()) for e, u in zip(vectors, image, strict=True)]
        np.testing.assert_allclose(matrix[index], row, rtol=1e-3, atol=1e-8)


def test_pair_terms_are_those_of_forward_passes():
    model = convolutional()
    errors = errors_of(model, 0.03)
    matrix = pair_terms(model, IMAGES, errors).terms
    values = [np.asarray(kernel) for kernel in kernels(model)]
    vectors = [error.kernel for error in errors.values()]

    def measured(*quantized):
        moved = [v + vectors[i] * (i in quantized) for i, v in enumerate(values)]
        return divergence(model, moved)

    scale = np.sqrt(np.outer(np.diag(matrix), np.diag(matrix)))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        term = measured(i, j) - measured(i) - measured(j)
        assert term == pytest.approx(matrix[i, j], abs=0.1 * scale[i, j])
        assert 2 * measured(i) == pytest.approx(matrix[i, i], rel=0.15)


def test_errors_of_biases_count():
    model = convolutional("linear")
    bias = GENERATOR.normal(size=K).astype("float32")
    kernel = np.zeros(model.get_layer("logits").kernel.shape, "float32")
    found = pair_terms(model, IMAGES, {("logits", 4): RoundingError(kernel, bias)})
    # The last bias moves every sample's logits alike: no spread.
    assert found.errors[0, 0] < 1e-5 * found.terms[0, 0]
    assert found.terms[0, 0] == pytest.approx(np.square(bias).sum(), rel=1e-5)


def test_errors_of_pair_terms_are_those_of_means_over_samples():
    model = convolutional()
    errors = errors_of(model, 0.1)
    found = pair_terms(model, IMAGES, errors, batch_size=2)
    single = [
        pair_terms(model, [IMAGES[0][i : i + 1]], errors, batch_size=1).terms for i in range(N)
    ]
    np.testing.assert_allclose(found.terms, np.mean(single, axis=0), rtol=1e-4, atol=1e-9)
    expected = np.std(single, axis=0, ddof=1) / np.sqrt(N)
    np.testing.assert_allclose(found.errors, expected, rtol=1e-3, atol=1e-9)


def test_pair_terms_of_many_outputs_are_the_exact_ones_within_their_errors(monkeypatch):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((H, W, C))
    x = L.Conv2D(4, 3, padding="same", activation="relu", name="conv")(inputs)
    x = L.Dense(40, activation="softmax", name="logits")(L.Flatten()(x))
    model = prepare(keras.Model(inputs, x))
    data = [GENERATOR.normal(size=(256, H, W, C)).astype("float32")]
    errors = errors_of(model, 0.1)
    errors["input", 8] = Grid((LayerGraph.of(model).inputs[0],), 0.5, 0, 8)
    found = pair_terms(model, data, errors)
    monkeypatch.setattr(probes, "EXACT_OUTPUTS", 64)
    exact = pair_terms(model, data, errors)
    scale = np.sqrt(np.outer(np.diag(exact.terms), np.diag(exact.terms)))
    np.testing.assert_array_less(np.abs(found.terms - exact.terms), 0.2 * scale)
    assert np.linalg.eigvalsh(found.terms).min() > -1e-6 * found.terms.max()


def test_pair_terms_take_as_many_passes_for_many_layers_as_for_few(monkeypatch):
    passes = []
    gradients = probes.shaped_gradients

    def counted(*arguments):
        passes.append(arguments)
        return gradients(*arguments)

    monkeypatch.setattr(pairs, "shaped_gradients", counted)
    for depth in (2, 6):
        inputs = x = keras.Input((C,))
        for _ in range(depth):
            x = L.Dense(C, activation="relu")(x)
        model = prepare(keras.Model(inputs, x))
        data = [GENERATOR.normal(size=(N, C)).astype("float32")]
        errors = {
            (name, bits): error
            for (name, _), error in errors_of(model, 0.1).items()
            for bits in (2, 4)
        }
        assert pair_terms(model, data, errors).terms.shape == (2 * depth, 2 * depth)
    # Traced once each, for the loop over the probes.
    assert len(passes) == 2
