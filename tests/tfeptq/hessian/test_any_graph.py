"""Scores, traces, pair terms and distillation take every graph that `prepare` lets through."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

from tests.tfeptq import random_models
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.canonical.linear import is_weighted
from tfeptq.config import QuantizationConfig
from tfeptq.hessian.activations import Grid, activation_moments
from tfeptq.hessian.label_free import channel_attention, weight_scores
from tfeptq.hessian.pairs import RoundingError, pair_terms
from tfeptq.hessian.traces import average_traces
from tfeptq.pipeline import quantize
from tfeptq.preparation import prepare

N = 4


def require_scores(model: keras.Model) -> None:
    """Every second-order quantity exists, in the shapes of what it is about, and is finite."""
    canonical = prepare(model)
    data = random_models.samples(canonical, N)
    graph = LayerGraph.of(canonical)
    calls = [call for call in graph.calls if is_weighted(call.layer)]
    layers = {call.layer.name: call.layer for call in calls}
    shapes = graph.shapes(canonical)
    scores = weight_scores(canonical, data)
    assert {name: score.shape for name, score in scores.items()} == {
        name: tuple(layer.kernel.shape) for name, layer in layers.items()
    }
    attention = channel_attention(canonical, data)
    assert [part.shape for part in attention] == [(N, shapes[call.output][-1]) for call in calls]
    traces = average_traces(canonical, data, draws=(1, 1), tolerance=np.inf)
    assert set(traces.mean) == set(layers)
    grids = [Grid((key,), 0.1, 3, 8) for key in [*graph.inputs, *(c.output for c in graph.calls)]]
    moments = activation_moments(canonical, data, grids, is_whitened=True)
    generator = np.random.default_rng(0)
    errors = {
        (name, 8): RoundingError(
            generator.normal(size=layer.kernel.shape).astype("float32"),
            generator.normal(size=layer.bias.shape).astype("float32"),
        )
        for name, layer in layers.items()
    }
    errors |= {(str(index), 8): grid for index, grid in enumerate(grids[:: len(grids) // 4 + 1])}
    terms = pair_terms(canonical, data, errors).terms
    found = [*scores.values(), *attention, [*traces.mean.values()], moments.weighted, terms]
    assert all(np.all(np.isfinite(values)) for values in found)
    assert np.all(np.diagonal(terms) >= 0.0)


def require_roundings(model: keras.Model) -> None:
    """OPTQ and two steps of EPTQ run through, and the result is near the float model."""
    data = random_models.samples(model, 32)
    expected = keras.tree.flatten(model.predict(data, verbose=0))
    for rounding in ("optq", "eptq"):
        config = QuantizationConfig(rounding=rounding, steps=2, batch_size=7, samples=32)
        quantized = quantize(model, tuple(data), config)
        found = keras.tree.flatten(quantized.predict(data, verbose=0))
        for one, other in zip(found, expected, strict=True):
            assert one.shape == other.shape
            assert np.all(np.isfinite(one))


@pytest.mark.filterwarnings("ignore:Hessian traces")
@settings(max_examples=3)
@given(st.integers(0, 2**20))
def test_scores_of_random_graphs(seed):
    require_scores(random_models.random_model(seed, steps=10))


@settings(max_examples=1)
@given(st.integers(0, 2**20))
def test_roundings_of_random_graphs(seed):
    require_roundings(random_models.random_model(seed, steps=10))


def channels_first(x):
    """An ONNX export: channels first, a Permute around every convolution."""
    x = L.Permute((2, 3, 1))(x)
    x = L.ReLU()(L.Permute((3, 1, 2))(L.Conv2D(4, 3, padding="same")(x)))
    return L.Dense(5)(L.Flatten()(x))


def text_lines(x):
    """A head of OCR: columns of an image become the steps of a sequence."""
    x = L.Permute((2, 1, 3))(L.Conv2D(4, (3, 1), padding="same")(x))
    return L.Softmax()(L.Dense(2)(L.Reshape((x.shape[1], -1))(x)))


def mixer(x):
    """Dense layers over positions and over channels in turn."""
    x = L.Reshape((-1, x.shape[-1]))(x)
    mixed = L.Dense(x.shape[1])(L.Permute((2, 1))(x))
    x = L.Add()([x, L.Permute((2, 1))(mixed)])
    return L.Dense(5)(L.GlobalAveragePooling1D()(L.Dense(6)(x)))


def test_permutes_behind_weights():
    keras.utils.set_random_seed(0)
    image = keras.Input((7, 6, 3))
    require_scores(
        keras.Model(image, [build(image) for build in (channels_first, text_lines, mixer)])
    )
