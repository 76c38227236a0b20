"""Refinement by measurements, and the measurement itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.tfeptq import small_models
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.hessian.distillation import SelfDistillation
from tfeptq.hessian.pairs import RoundingError
from tfeptq.preparation import prepare
from tfeptq.selection.refinement import refined
from tfeptq.sensitivity.measured import MeasuredDivergence

NAMES, WIDTHS = "abcd", (2, 4, 8)
LOSSES = {name: {2: 3.0, 4: 1.0, 8: 0.1} for name in NAMES} | {"pinned": {8: 0.2}}
COSTS = {"weight_bytes": {name: {bits: bits for bits in table} for name, table in LOSSES.items()}}


class Truth:
    """Losses that the predictions know nothing of: a and b cancel, everything else adds up."""

    def __init__(self):
        self.calls = 0
        self.seen = []

    def __call__(self, widths):
        self.calls += 1
        self.seen.append(dict(widths))
        true = {"a": 5.0, "b": 1.0, "c": 2.0, "d": 0.5, "pinned": 0.0}
        total = sum(weight / widths[name] for name, weight in true.items())
        return total - 1.0 * (widths["a"] == widths["b"])


def within(widths, limit):
    return sum(widths.values()) <= limit


def test_refinement_finds_what_is_better_and_stays_within_the_limits():
    start = {"a": 2, "b": 4, "c": 4, "d": 8, "pinned": 8}
    truth = Truth()
    found = refined([start], LOSSES, COSTS, {"weight_bytes": 26}, truth, moves=100)
    fitting = [
        {**dict(zip(NAMES, widths, strict=True)), "pinned": 8}
        for widths in itertools.product(WIDTHS, repeat=4)
    ]
    best = min((w for w in fitting if within(w, 26)), key=Truth())
    assert within(found, 26)
    assert truth(found) == truth(best)
    assert all(within(widths, 26) for widths in truth.seen)


def test_a_uniform_width_that_measures_better_is_taken():
    start = {"a": 2, "b": 8, "c": 2, "d": 4, "pinned": 8}
    found = refined([start], LOSSES, COSTS, {"weight_bytes": 24}, Truth(), moves=0)
    assert found == {"a": 4, "b": 4, "c": 4, "d": 4, "pinned": 8}


def test_of_several_starts_the_best_measured_one_is_taken():
    starts = [
        {"a": 2, "b": 8, "c": 2, "d": 2, "pinned": 8},
        {"a": 8, "b": 2, "c": 2, "d": 2, "pinned": 8},
    ]
    found = refined(starts, LOSSES, COSTS, {"weight_bytes": 22}, Truth(), moves=0)
    assert found == starts[1]


def test_measurements_are_counted():
    start = {"a": 2, "b": 4, "c": 4, "d": 8, "pinned": 8}
    for moves in (0, 1, 5):
        truth = Truth()
        refined([start], LOSSES, COSTS, {"weight_bytes": 26}, truth, moves=moves)
        changed = {tuple(widths.items()) for widths in truth.seen}
        # The start and the uniform choices of 2 and 4 bits come on top.
        assert len(changed) <= 3 + moves


def test_the_divergence_is_that_of_a_model_with_other_weights():
    model, images = prepare(small_models.residual_network()), small_models.images(20)
    generator = np.random.default_rng(0)
    shapes = {
        name: [w.shape for w in model.get_layer(name).get_weights()] for name in ("stem", "skip")
    }
    errors = {
        (name, 4): RoundingError(*(generator.normal(0, 0.05, s).astype("float32") for s in shape))
        for name, shape in shapes.items()
    }
    measure = MeasuredDivergence(model, [images], errors, count=16)
    before = model.get_weights()
    found = measure({"stem": 4, "skip": 4})
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert measure({}) == pytest.approx(0.0, abs=1e-7)
    graph, inputs = LayerGraph.of(model), [tf.constant(images[:16])]
    reference = graph.execute(inputs)
    for (name, _), error in errors.items():
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([kernel + error.kernel, bias + error.bias])
    expected = SelfDistillation(model).divergence(reference, graph.execute(inputs))
    assert found == pytest.approx(float(tf.reduce_mean(expected)), rel=1e-4)
