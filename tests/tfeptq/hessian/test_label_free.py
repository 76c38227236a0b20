"""Label-free scores against closed forms and one-sample Jacobians."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from tfeptq.canonical.logits import logit_keys
from tfeptq.hessian import label_free, probes
from tfeptq.hessian.label_free import (
    channel_attention,
    sample_layer_attention,
    score_error,
    weight_scores,
)
from tfeptq.hessian.probes import Probe
from tfeptq.preparation import prepare

H, W, C, N, K = 6, 5, 3, 7, 4
GENERATOR = np.random.default_rng(0)
SAMPLES = [GENERATOR.normal(size=(N, H, W, C)).astype("float32")]


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((H, W, C))
    x = L.Conv2D(5, (3, 2), padding="same", strides=2, activation="relu", name="conv")(inputs)
    x = L.DepthwiseConv2D((2, 3), depth_multiplier=2, padding="same", name="depthwise")(x)
    x = L.GlobalAveragePooling2D()(L.Activation("tanh")(x))
    return prepare(keras.Model(inputs, L.Dense(K, activation="softmax", name="logits")(x)))


def jacobians(model, layer_name):
    """d logits / d kernel and d logits / d z of one sample at a time: (N, K, ...)."""
    kernels, outputs = [], []
    layer = model.get_layer(layer_name)
    for sample in SAMPLES[0]:
        with tf.GradientTape(persistent=True) as tape:
            x, z = tf.constant(sample[None]), None
            for step in model.layers[1:]:
                if isinstance(step, L.Softmax):
                    break
                x = step(x)
                if step is layer:
                    tape.watch(x)
                    z = x
            logits = x[0]
        kernels.append(tape.jacobian(logits, layer.kernel.value).numpy())
        outputs.append(tape.jacobian(logits, z).numpy()[:, 0])
    return np.array(kernels), np.array(outputs)


LAYERS = ("conv", "depthwise", "logits")


@pytest.mark.parametrize("name", LAYERS)
def test_weight_scores_are_mean_squared_jacobians(model, name):
    scores = weight_scores(model, SAMPLES, count=N, batch_size=N)
    expected = np.square(jacobians(model, name)[0]).sum(axis=1).mean(axis=0)
    np.testing.assert_allclose(scores[name], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", LAYERS)
def test_attention_is_the_mean_squared_jacobian_of_a_channel(model, name):
    attention = channel_attention(model, SAMPLES, batch_size=3)
    squared = np.square(jacobians(model, name)[1]).sum(axis=1)
    by_channel = squared.reshape(N, -1, squared.shape[-1]).mean(axis=1)
    np.testing.assert_allclose(attention[LAYERS.index(name)], by_channel, rtol=1e-4, atol=1e-9)
    by_layer = sample_layer_attention(model, SAMPLES, batch_size=3)[:, LAYERS.index(name)]
    np.testing.assert_allclose(by_layer, by_channel.max(axis=-1), rtol=1e-4)


def test_the_last_linear_layer_scores_exactly_one(model):
    np.testing.assert_array_equal(sample_layer_attention(model, SAMPLES)[:, -1], 1.0)


def test_permuting_the_batch_permutes_the_scores(model):
    order = GENERATOR.permutation(N)
    scores = sample_layer_attention(model, SAMPLES, batch_size=4)
    permuted = sample_layer_attention(model, [SAMPLES[0][order]], batch_size=4)
    np.testing.assert_allclose(permuted, scores[order], rtol=1e-5)


def test_a_linear_network_has_its_jacobian_in_closed_form():
    inputs = keras.Input((C,))
    model = prepare(keras.Model(inputs, L.Dense(K, name="b")(L.Dense(5, name="a")(inputs))))
    data = [GENERATOR.normal(size=(N, C)).astype("float32")]
    second = np.asarray(model.get_layer("b").kernel)
    attention = sample_layer_attention(model, data)
    np.testing.assert_allclose(attention[:, 0], np.square(second).sum(axis=1).max(), rtol=1e-5)
    scores = weight_scores(model, data, count=N, batch_size=N)
    mean_square = np.square(data[0]).mean(axis=0)
    expected = mean_square[:, None] * np.square(second).sum(axis=1)
    np.testing.assert_allclose(scores["a"], expected, rtol=1e-4)


def test_many_outputs_are_estimated_with_rademacher_probes():
    inputs = keras.Input((C,))
    model = prepare(keras.Model(inputs, L.Dense(50, name="b")(L.Dense(5, name="a")(inputs))))
    probe = Probe(model, probes=64)
    assert not probe.exact
    np.testing.assert_allclose(np.abs(probe.probe_vectors(3)), 1 / 8)
    data = [GENERATOR.normal(size=(N, C)).astype("float32")]
    attention = sample_layer_attention(model, data)
    # Each squared probe is 1 / count at the last layer: their sum is exact.
    np.testing.assert_allclose(attention[:, 1], 1.0, rtol=1e-5)
    exact = np.square(np.asarray(model.get_layer("b").kernel)).sum(axis=1).max()
    np.testing.assert_allclose(attention[:, 0].mean(), exact, rtol=0.3)


def test_scores_are_taken_on_logits_not_behind_softmax(model):
    keys = logit_keys(model)
    assert [key[0] for key in keys] == ["logits"]


def test_calls_of_a_shared_layer_are_summed():
    left, right = keras.Input((C,)), keras.Input((C,))
    shared = L.Dense(K, name="shared")
    model = prepare(keras.Model([left, right], L.Add()([shared(left), shared(right)])))
    data = [GENERATOR.normal(size=(N, C)).astype("float32") for _ in range(2)]
    scores = weight_scores(model, data, count=N, batch_size=N)
    expected = sum(np.square(array).mean(axis=0) for array in data)
    np.testing.assert_allclose(scores["shared"], np.tile(expected[:, None], K), rtol=1e-4)
    assert sample_layer_attention(model, data).shape == (N, 2)


def _many_outputs():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((H, W, C))
    x = L.Conv2D(5, (3, 2), padding="same", activation="relu", name="conv")(inputs)
    x = L.DepthwiseConv2D((2, 3), strides=2, padding="same", name="depthwise")(x)
    return prepare(keras.Model(inputs, L.Dense(40, name="logits")(L.Flatten()(L.ReLU()(x)))))


def test_scores_of_many_logits_are_the_exact_ones_within_their_standard_error(monkeypatch):
    model = _many_outputs()
    data = [GENERATOR.normal(size=(96, H, W, C)).astype("float32")]
    monkeypatch.setattr(label_free, "SCORE_ERROR", 0.0)
    estimated = weight_scores(model, data)
    monkeypatch.setattr(probes, "EXACT_OUTPUTS", 64)
    exact = weight_scores(model, data)
    for name, expected in exact.items():
        error = np.linalg.norm(estimated[name] - expected) / np.linalg.norm(expected)
        # The square of a normal number has a variance of 2; samples differ, by squares of inputs,
        # whose own squares are on average three times their square.
        draws = 96 * label_free.SCORE_PASSES
        assert error < 1.5 * np.sqrt(3.0 * 2.0 / draws)
        assert estimated[name].mean() == pytest.approx(expected.mean(), rel=0.15)


@pytest.mark.parametrize(("tolerance", "passes"), [(np.inf, 1), (0.0, label_free.SCORE_PASSES)])
def test_passes_over_the_samples_end_at_the_standard_error(monkeypatch, tolerance, passes):
    model, seen = _many_outputs(), []
    data = [GENERATOR.normal(size=(32, H, W, C)).astype("float32")]
    vectors = Probe.probe_vectors

    def watched(self, batch, *, index=0):
        seen.append(index)
        return vectors(self, batch, index=index)

    monkeypatch.setattr(Probe, "probe_vectors", watched)
    monkeypatch.setattr(label_free, "SCORE_ERROR", tolerance)
    weight_scores(model, data, batch_size=8)
    assert seen == list(range(4 * passes))


def test_the_standard_error_of_scores_is_that_of_independent_halves():
    normal = np.random.default_rng(1).normal
    halves = [{"a": 100.0 + normal(size=10_000)} for _ in range(2)]
    # The mean of two of deviation 1 has one of 1 / sqrt(2), beside 100.
    assert score_error(tuple(halves)) == pytest.approx(0.01 / np.sqrt(2), rel=0.05)
    assert score_error((halves[0], {})) == np.inf
