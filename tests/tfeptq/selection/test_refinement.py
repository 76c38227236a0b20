"""Refinement by measurements, and the measurement itself."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tfeptq import small_models
from tests.tfeptq.selection.programs import choices, loss, named, programs, separable, total
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.config import QuantizationConfig
from tfeptq.hessian.distillation import SelfDistillation
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.hessian.pairs import RoundingError
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.selection import refinement
from tfeptq.selection.factor import Factor, activations, weights
from tfeptq.selection.program import Program
from tfeptq.selection.refinement import refined
from tfeptq.sensitivity.activation_sensitivity import activation_grids
from tfeptq.sensitivity.measured import MeasuredDivergence

NAMES, WIDTHS = "abcd", (2, 4, 8)
LOSSES = {name: {2: 3.0, 4: 1.0, 8: 0.1} for name in NAMES} | {"pinned": {8: 0.2}}
COSTS = {"weight_bytes": {name: {bits: bits for bits in table} for name, table in LOSSES.items()}}
PROGRAM = separable(LOSSES, COSTS)


@given(program=programs(), data=st.data())
@settings(max_examples=200)
def test_neighbours_are_those_of_an_enumeration_and_the_most_promising_comes_first(program, data):
    every = list(choices(program))
    if not every:
        return
    widths = data.draw(st.sampled_from(every))
    slack = data.draw(st.integers(-3, 10))
    limits = {name: total(program, widths, name) + max(slack, 0) for name in program.names}
    found = list(refinement._Search(program, limits).neighbours(widths))
    losses = [loss(program, choice) for choice in found]
    assert losses == sorted(losses)
    assert sorted(map(str, found)) == sorted(map(str, enumerated(program, widths, limits)))


def enumerated(program, widths, limits):
    allowed = [
        choice
        for choice in choices(program)
        if all(total(program, choice, name) <= limit for name, limit in limits.items())
    ]
    for variable, table in program.losses.items():
        wider = [bits for bits in table if bits > widths[variable]]
        if not wider:
            continue
        raised = {**widths, variable: min(wider)}
        if raised in allowed:
            yield raised
            continue
        for other in widths.keys() - {variable}:
            narrower = sorted((b for b in program.losses[other] if b < widths[other]), reverse=True)
            lowered = [{**raised, other: bits} for bits in narrower]
            yield from [choice for choice in lowered if choice in allowed][:1]


class Truth:
    """Losses that the predictions know nothing of: a and b cancel, everything else adds up."""

    def __init__(self):
        self.calls = 0
        self.seen = []

    def __call__(self, widths):
        widths = named(widths)
        self.calls += 1
        self.seen.append(dict(widths))
        true = {"a": 5.0, "b": 1.0, "c": 2.0, "d": 0.5, "pinned": 0.0}
        total = sum(weight / widths[name] for name, weight in true.items())
        return total - 1.0 * (widths["a"] == widths["b"])


def found_from(starts, truth, *, limit, moves, program=PROGRAM):
    """What refinement makes of layer name -> width, and every choice that it has measured."""
    limits = {"weight_bytes": limit}
    keyed = [{weights(name): bits for name, bits in start.items()} for start in starts]
    return named(refined(program, keyed, limits, truth, moves=moves))


def test_refinement_finds_what_is_better_and_stays_within_the_limits():
    start = {"a": 2, "b": 4, "c": 4, "d": 8, "pinned": 8}
    truth = Truth()
    found = found_from([start], truth, limit=26, moves=100)
    fitting = [widths for widths in choices(PROGRAM) if sum(widths.values()) <= 26]
    best = min(fitting, key=Truth())
    assert sum(found.values()) <= 26
    assert Truth()({weights(name): bits for name, bits in found.items()}) == Truth()(best)
    assert all(sum(widths.values()) <= 26 for widths in truth.seen)


def test_a_uniform_width_that_measures_better_is_taken():
    start = {"a": 2, "b": 8, "c": 2, "d": 4, "pinned": 8}
    found = found_from([start], Truth(), limit=24, moves=0)
    assert found == {"a": 4, "b": 4, "c": 4, "d": 4, "pinned": 8}


def test_of_several_starts_the_best_measured_one_is_taken():
    starts = [
        {"a": 2, "b": 8, "c": 2, "d": 2, "pinned": 8},
        {"a": 8, "b": 2, "c": 2, "d": 2, "pinned": 8},
    ]
    assert found_from(starts, Truth(), limit=22, moves=0) == starts[1]


def test_measurements_are_counted():
    start = {"a": 2, "b": 4, "c": 4, "d": 8, "pinned": 8}
    for moves in (0, 1, 5):
        truth = Truth()
        found_from([start], truth, limit=26, moves=moves)
        changed = {tuple(widths.items()) for widths in truth.seen}
        # The start and the uniform choices of 2 and 4 bits come on top.
        assert len(changed) <= 3 + moves


def test_moves_keep_the_order_and_what_is_forbidden():
    start = {"a": 2, "b": 4, "c": 4, "d": 8, "pinned": 8}
    ordered = Program(
        PROGRAM.losses,
        [*PROGRAM.factors, Factor((weights("c"),), {(2,): {}, (4,): {}})],
        [weights(name) for name in NAMES],
    )
    truth = Truth()
    found_from([start], truth, limit=40, moves=100, program=ordered)
    assert len(truth.seen) > 3
    for widths in truth.seen:
        bits = [widths[name] for name in NAMES]
        assert bits == sorted(bits)
        assert widths["c"] < 8


def test_weights_and_activations_move_together():
    """Two layers and what is between them; the truth prefers wide activations."""
    a, b, x = weights("a"), weights("b"), activations("x")
    losses = {a: {2: 1.0, 8: 0.0}, b: {2: 1.0, 8: 0.0}, x: {4: 0.1, 8: 0.0}}
    tables = [{(v, w): {"operations": v * w} for v in (2, 8) for w in (4, 8)} for _ in (a, b)]
    program = Program(losses, [Factor((v, x), t) for v, t in zip((a, b), tables, strict=True)])
    limits = {"operations": 80}
    start = program.best(limits)
    assert start == {a: 8, b: 8, x: 4}
    found = refined(program, [start], limits, lambda w: 10 / w[x] + 1 / w[a] + 2 / w[b], moves=9)
    assert found == {a: 2, b: 8, x: 8}


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


def test_the_divergence_of_rounded_activations_is_that_of_a_graph_that_rounds_them():
    model, images = prepare(small_models.residual_network()), small_models.images(20)
    config = QuantizationConfig(weight_bits=8, activation_bits=(4, 8))
    scores = FloatScores(model, [images], 0)
    grids = activation_grids(QuantizationPlan.of(model, config), scores.histograms)
    measure = MeasuredDivergence(model, [images], {}, grids, count=16)
    assert measure({}) == pytest.approx(0.0, abs=1e-7)
    names = {name for name, _ in grids}
    narrow = {name: min(bits for other, bits in grids if other == name) for name in names}
    wide = dict.fromkeys(names, 8)
    assert measure({}, narrow) > 10 * measure({}, wide) > 0.0
    one = next(name for name in names if "depthwise" in name)
    grid = grids[one, 4]

    def hook(call, _, output):
        return output + grid.error(output) if call.output in grid.keys else output

    graph, inputs = LayerGraph.of(model), [tf.constant(images[:16])]
    reference, moved = graph.execute(inputs), graph.execute(inputs, hook=hook)
    expected = SelfDistillation(model).divergence(reference, moved)
    assert measure({}, {one: 4}) == pytest.approx(float(tf.reduce_mean(expected)), rel=1e-4)
