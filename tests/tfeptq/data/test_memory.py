"""Batches that fit: fewer samples at a time, the same results."""

from __future__ import annotations

import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import tfeptq
from tests.tfeptq import small_models
from tfeptq.calibrate.bias_correction import correct_biases
from tfeptq.calibrate.ranges import tensor_histograms
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.data import memory
from tfeptq.hessian.activations import Grid, activation_moments
from tfeptq.hessian.label_free import channel_attention, weight_scores
from tfeptq.hessian.pairs import RoundingError, pair_terms
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.sensitivity.measured import MeasuredDivergence
from tfeptq.sensitivity.rounding_errors import weight_errors

#: Divisible by no batch size but 3 and 11.
SAMPLES = [small_models.images(33)]


@pytest.fixture(scope="module")
def canonical():
    return prepare(small_models.residual_network())


def sample_bytes(model):
    return 4 * sum(np.prod(shape[1:]) for shape in LayerGraph.of(model).shapes(model).values())


def test_batches_shrink_with_the_model(canonical, monkeypatch):
    size = int(sample_bytes(canonical))
    assert memory.fitting_batch(canonical, 32, copies=2) == 32
    monkeypatch.setattr(memory, "BATCH_BYTES", 10 * size)
    assert memory.fitting_batch(canonical, 32, copies=2) == 5
    assert memory.fitting_batch(canonical, 3, copies=2) == 3
    assert memory.fitting_forward_batch(canonical, 1000) > 5
    monkeypatch.setattr(memory, "BATCH_BYTES", 1)
    assert memory.fitting_batch(canonical, 32, copies=2) == 1


def test_gradients_take_many_small_samples_or_few_large_ones(canonical, monkeypatch):
    size = int(sample_bytes(canonical))
    monkeypatch.setattr(memory, "BATCH_BYTES", 100 * size)
    monkeypatch.setattr(memory, "_ENOUGH_FOR_GRADIENTS", 20 * size)
    assert memory.gradient_batch(canonical, 64, copies=2) == 10
    assert memory.gradient_batch(canonical, 7, copies=2) == 7
    assert memory.gradient_batch(canonical, 64, copies=20) == 4
    assert memory.gradient_batch(canonical, 64, copies=40) == 2


@hypothesis.given(st.integers(1, 200), st.integers(1, 64))
def test_batches_hold_every_sample_once(count, batch_size):
    samples = np.arange(250)
    batches = memory.WholeBatches([samples, -samples], count, batch_size)
    assert {len(tensor) for batch in batches for tensor in batch} == {batches.size}
    assert batches.size <= batch_size
    assert len(batches) == -(-count // batch_size)
    for position, sign in enumerate((1, -1)):
        whole = np.concatenate([batch[position] for batch in batches.once()])
        np.testing.assert_array_equal(whole, sign * samples[:count])


def shifts(canonical, samples):
    config = tfeptq.QuantizationConfig(
        weight_bits=3, rounding="nearest", threshold="mse", samples=33, bias_correction=False
    )
    quantized = tfeptq.quantize(canonical, SAMPLES[0], config)
    return correct_biases(quantized, canonical, samples)


def forward_bytes(canonical):
    """Of a batch of 8 in `memory.fitting_forward_batch`."""
    shapes = LayerGraph.of(canonical).shapes(canonical).values()
    return 8 * 4 * 4 * int(max(np.prod(shape[1:]) for shape in shapes))


def histograms(canonical):
    keys = [call.output for call in LayerGraph.of(canonical).calls]
    found = tensor_histograms(canonical, SAMPLES, keys)
    return {key: histogram.counts for key, histogram in found.items()}


def attention(canonical):
    return dict(enumerate(channel_attention(canonical, SAMPLES)))


def errors(canonical):
    # OPTQ takes fewer samples instead of smaller batches: its walk holds all of them.
    config = tfeptq.QuantizationConfig(
        weight_bits=(2, 4), threshold="mse", initial_rounding="nearest"
    )
    plan = QuantizationPlan.of(canonical, config)
    candidates = {
        name: (plan.storage(name, 2), plan.storage(name, 4)) for name in ("pointwise", "skip")
    }
    found = weight_errors(canonical, SAMPLES, candidates, {}, config)
    return {key: error.bias for key, error in found.shipped.items()}


def scores(canonical):
    return weight_scores(canonical, SAMPLES)


def pairs(canonical):
    changes = {
        (name, 4): RoundingError(*(0.01 * np.asarray(w) for w in canonical.get_layer(name).weights))
        for name in ("pointwise", "skip")
    }
    return dataclasses.asdict(pair_terms(canonical, SAMPLES, changes))


def moments(canonical):
    grids = [Grid((("sum_relu", 0), ("pool", 0)), 0.1, -128, 8)]
    return dataclasses.asdict(activation_moments(canonical, SAMPLES, grids, is_whitened=False))


def divergence(canonical):
    change = RoundingError(*(0.1 * np.asarray(w) for w in canonical.get_layer("skip").weights))
    measure = MeasuredDivergence(canonical, SAMPLES, {("skip", 4): change})
    return {"skip": measure({"skip": 4})}


STAGES = [histograms, attention, errors, scores, pairs, moments, divergence]


@pytest.mark.parametrize("stage", STAGES)
def test_small_batches_give_the_same(canonical, monkeypatch, stage):
    whole = stage(canonical)
    monkeypatch.setattr(memory, "BATCH_BYTES", 24 * int(sample_bytes(canonical)))
    parts = stage(canonical)
    assert whole.keys() == parts.keys()
    for key, expected in whole.items():
        largest = np.abs(expected).max()
        np.testing.assert_allclose(parts[key], expected, rtol=1e-4, atol=1e-5 * largest)


def test_bias_correction_over_batches_comes_close(canonical, monkeypatch):
    samples = [SAMPLES[0][:32]]
    whole = shifts(canonical, samples)
    # Four batches of 8: every batch corrects its own layers one after the other.
    monkeypatch.setattr(memory, "BATCH_BYTES", forward_bytes(canonical))
    assert memory.fitting_forward_batch(canonical, 32) == 8
    parts = shifts(canonical, samples)
    difference = np.concatenate([parts[name] - shift for name, shift in whole.items()])
    # A layer of hardly any shift may be off by a third of it.
    assert np.linalg.norm(difference) < 0.06 * np.linalg.norm(np.concatenate([*whole.values()]))


def test_the_report_says_how_many_samples_fitted(monkeypatch):
    model = small_models.residual_network()
    canonical = prepare(model)
    shapes = LayerGraph.of(canonical).shapes(canonical).values()
    # Ten times three copies of the largest tensor.
    monkeypatch.setattr(
        memory, "BATCH_BYTES", 10 * 3 * 4 * int(max(np.prod(shape[1:]) for shape in shapes))
    )
    config = tfeptq.QuantizationConfig(weight_bits=4, rounding="optq", samples=33)
    used = tfeptq.quantize(model, SAMPLES[0], config).report.samples
    quality = memory.fitting_batch(canonical, 32, copies=2)
    assert quality < 10
    assert used == {"ranges": 33, "weight scores": 33, "layer by layer": 10, "quality": quality}


def test_bias_correction_weighs_every_sample_once(canonical, monkeypatch):
    """The first layer's shifts are those of samples, which batches with a rest must not change."""
    whole = shifts(canonical, SAMPLES)["stem"]
    monkeypatch.setattr(memory, "BATCH_BYTES", forward_bytes(canonical))
    parts = shifts(canonical, SAMPLES)["stem"]
    # Float32 sums of pre-activations around 1; one sample of 33 left out moves it by 1e-5.
    np.testing.assert_allclose(parts, whole, atol=2e-7)
