"""Bisection and judgement of accuracy, without and with real models."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tfeptq.selection.programs import choices, named, programs, separable
from tfeptq.goals import AccuracyTarget
from tfeptq.selection.accuracy import Judge, float_values, metric_values
from tfeptq.selection.bisection import bisect_frontier, bisect_layers, step_back

LAYERS = 16
COSTS = {f"layer{i}": {bits: 100 * bits for bits in (2, 3, 4, 8)} for i in range(LAYERS)}


def harm(widths):
    """A loss that grows with the layer's index and falls with its width."""
    return sum(int(name[5:]) * {2: 9.0, 3: 3.0, 4: 1.0, 8: 0.0}[b] for name, b in widths.items())


LOSSES = {name: {bits: harm({name: bits}) for bits in (2, 3, 4, 8)} for name in COSTS}


def bisected(losses, costs, holds):
    """Choices of layer name -> width that hold, in the order in which they were found."""
    program = separable(losses, {"weight_bytes": costs})
    return [named(w) for w in bisect_layers(program, ["weight_bytes"], lambda w: holds(named(w)))]


@pytest.mark.parametrize("allowed", [0.0, 12.0, 60.0, 200.0, 2000.0])
def test_every_width_takes_the_longest_prefix_that_holds(allowed):
    calls = []

    def holds(widths):
        calls.append(widths)
        return harm(widths) <= allowed

    held = bisected(LOSSES, COSTS, holds)
    final = held[-1]
    # About three widths times log2(16), one more each for the attempt to take all.
    assert len(calls) <= 1 + 3 * 6
    costs = [sum(COSTS[name][bits] for name, bits in widths.items()) for widths in held]
    assert costs == sorted(costs, reverse=True)
    assert harm(final) <= allowed
    assert final == scanned(allowed)


def scanned(allowed):
    """The same prefixes, one layer at a time; layers are already in the order of their losses."""
    widths, prefix = dict.fromkeys(COSTS, 8), list(COSTS)
    for bits in (4, 3, 2):
        taken = []
        for name in prefix:
            if harm({**widths, **dict.fromkeys([*taken, name], bits)}) > allowed:
                break
            taken.append(name)
        widths |= dict.fromkeys(taken, bits)
        prefix = taken
    return widths


def test_nothing_holds():
    assert bisected(LOSSES, COSTS, lambda widths: False) == []


def test_widths_that_save_nothing_are_not_tried():
    costs = {name: {2: 4, 3: 4, 4: 4, 8: 8} for name in COSTS}
    held = bisected(LOSSES, costs, lambda widths: True)
    assert set(held[-1].values()) == {4}


def test_layers_with_one_candidate_keep_it():
    costs = {**COSTS, "layer0": {8: 800}}
    losses = {**LOSSES, "layer0": {8: 0.0}}
    final = bisected(losses, costs, lambda widths: True)[-1]
    assert final["layer0"] == 8
    assert final["layer1"] == 2


@given(program=programs(), data=st.data())
def test_layers_and_activations_are_narrowed_together_in_what_is_allowed(program, data):
    """Products, gaps and orders: whatever holds, the search stays with choices and gets cheaper."""
    every = list(choices(program))
    if not every:
        return
    least = data.draw(st.integers(0, 40))
    calls = []

    def holds(widths):
        calls.append(widths)
        return sum(widths.values()) >= least

    held = bisect_layers(program, ["bytes", "operations"], holds)
    assert all(widths in every for widths in calls)
    assert all(widths in calls and sum(widths.values()) >= least for widths in held)
    bits = [sum(widths.values()) for widths in held]
    assert bits == sorted(bits, reverse=True)
    assert bool(held) == (max(sum(widths.values()) for widths in every) >= least)


@pytest.mark.parametrize("count", [1, 2, 9, 100_000])
@pytest.mark.parametrize("share", [0.0, 0.003, 0.4, 0.999, 1.0])
def test_the_cheapest_point_of_the_frontier_that_holds(count, share):
    costs = np.linspace(25.0, 100.0, count)
    cheapest = int(share * (count - 1))
    calls = []

    def holds(point):
        calls.append(point)
        return point >= cheapest

    found = bisect_frontier(costs, holds)
    assert found == cheapest or costs[found] <= 1.01 * costs[cheapest] + 1e-9
    assert found >= cheapest
    assert len(calls) <= 11
    assert bisect_frontier(costs, lambda _: False) is None


@given(
    costs=st.lists(st.integers(1, 10_000), min_size=1, max_size=200, unique=True),
    threshold=st.integers(0, 12_000),
)
def test_stepping_back_comes_close_to_the_cheapest_that_holds(costs, threshold):
    costs = np.sort(np.array(costs, np.float64))
    calls = []

    def holds(index):
        calls.append(index)
        return costs[index] >= threshold

    found = step_back(costs, holds)
    assert len(set(calls)) == len(calls)
    if threshold > costs[-1]:
        assert found is None
        assert calls[-1] == len(costs) - 1
        return
    missed = int(np.searchsorted(costs, threshold))
    assert found >= missed
    assert found == missed or costs[found] <= 1.05 * costs[missed - 1] + 1e-9


def test_stepping_back_is_quick_and_exact_where_it_can_be():
    costs, calls = np.arange(30.0, 101.0), []
    assert step_back(costs, lambda index: calls.append(index) or costs[index] >= 60.0) is not None
    assert [costs[index] for index in calls[:4]] == [30.0, 32.0, 36.0, 44.0]
    assert len(calls) <= 8
    assert step_back(costs, lambda index: True) == 0
    # Nothing lies between two rungs far apart.
    assert step_back(np.array([1.0, 2.0, 9.0]), lambda index: index >= 1) == 1


class Scores:
    """A metric that looks its values up by model name."""

    def __init__(self, **values):
        self._values = values

    def __call__(self, model):
        return self._values[model.name]


def model_named(name):
    inputs = keras.Input((1,))
    return keras.Model(inputs, inputs, name=name)


def judge(target, measured=lambda widths: None):
    """Of a float model; whatever widths give is measured on one called "quantized"."""

    def measure(widths):
        measured(widths)
        return metric_values(target, model_named("quantized"))

    return Judge(target, float_values(target, model_named("float")), measure)


def test_scores_are_compared_paired():
    right = np.ones(100)
    right[:20] = 0
    worse = right.copy()
    worse[20:22] = 0
    comparison = judge(AccuracyTarget(Scores(float=right, quantized=worse), 0.9)).compare(
        model_named("quantized")
    )
    assert comparison.score == pytest.approx(0.78)
    assert comparison.margin == pytest.approx(0.78 - 0.9 * 0.8)
    # Only two samples differ in more than the constant factor: far below the unpaired error.
    assert comparison.error < 0.02 < np.std(right) / 10
    assert comparison.holds


def test_a_score_that_just_meets_the_target_holds():
    values = np.array([1.0, 1.0, 0.0])
    assert (
        judge(AccuracyTarget(Scores(float=values, quantized=values), 1.0))
        .compare(model_named("quantized"))
        .holds
    )


def test_evaluations_are_counted_and_remembered():
    runs = []
    target = AccuracyTarget(Scores(float=1.0, quantized=0.5), 0.9)
    found = judge(target, runs.append)
    for widths in ({"a": 2}, {"a": 4}, {"a": 2}):
        assert not found.holds(widths)
    assert found.evaluations == len(runs) == 2
    assert "score 0.5 where the float model scores 1" in str(found.unreachable())


def test_a_target_finer_than_the_noise_is_told():
    generator = np.random.default_rng(0)
    values = generator.integers(0, 2, (2, 50)).astype(float)
    found = judge(AccuracyTarget(Scores(float=values[0], quantized=values[1]), 0.99))
    with pytest.warns(UserWarning, match="below the standard error"):
        found.warn_if_too_fine(found.compare(model_named("quantized")))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"float": float("nan")}, "finite number"),
        ({"float": 0.0}, "must be positive"),
        ({"float": [1.0, 1.0], "quantized": [1.0]}, "score the same samples"),
    ],
)
def test_bad_metrics(values, message):
    with pytest.raises(ValueError, match=message):
        judge(AccuracyTarget(Scores(**values))).compare(model_named("quantized"))
