"""The one program against enumeration of every choice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tfeptq.selection.programs import WIDTHS, choices, loss, programs, separable, total
from tfeptq.selection.factor import Factor, activations, constant, weights
from tfeptq.selection.integer_program import IntegerProgram
from tfeptq.selection.program import Program

NAMES = ("bytes", "operations")
LIMITS = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 160), max_size=2)
EXAMPLES = 100


@given(program=programs(), limits=LIMITS)
@settings(max_examples=EXAMPLES)
def test_the_choice_is_that_of_brute_force(program, limits):
    fitting = [
        widths
        for widths in choices(program)
        if all(total(program, widths, name) <= limit for name, limit in limits.items())
    ]
    best = program.best(limits)
    if not fitting:
        assert best is None
        return
    assert best in fitting
    assert list(best) == list(program.losses)
    assert loss(program, best) == pytest.approx(min(loss(program, w) for w in fitting), abs=1e-6)
    assert program.loss(best) == pytest.approx(loss(program, best))
    assert all(program.cost(best, name) == total(program, best, name) for name in NAMES)
    assert program.fits(best, limits)


@given(program=programs(), names=st.sampled_from([("bytes",), ("operations",), NAMES]))
@settings(max_examples=EXAMPLES)
def test_the_least_of_the_largest_cost_is_that_of_brute_force(program, names):
    every = [max(total(program, w, name) for name in names) for w in choices(program)]
    if not every:
        with pytest.raises(ValueError, match="can be executed"):
            program.least(names)
        with pytest.raises(ValueError, match="can be executed"):
            program.widest()
        return
    assert program.largest(program.least(names), names) == min(every)
    widest = program.widest()
    assert program.is_allowed(widest)
    assert sum(widest.values()) == max(sum(widths.values()) for widths in choices(program))


@given(program=programs(is_separable=True), limits=LIMITS)
@settings(max_examples=EXAMPLES)
def test_dynamic_programming_finds_what_the_solver_finds(program, limits):
    limits = dict(itertools.islice(limits.items(), 1))
    found = program.best(limits)
    solved = IntegerProgram(program.losses, program.factors, program.order).best(limits)
    assert (found is None) == (solved is None)
    if found is not None:
        assert loss(program, found) == pytest.approx(loss(program, solved), abs=1e-6)


@given(program=programs(is_separable=True), name=st.sampled_from(NAMES))
@settings(max_examples=EXAMPLES)
def test_the_frontier_of_a_separable_program_has_every_undominated_choice(program, name):
    points = sorted({(total(program, w, name), loss(program, w)) for w in choices(program)})
    expected = [
        (cost, value)
        for cost, value in points
        if not any(c <= cost and v <= value for c, v in points if (c, v) != (cost, value))
    ]
    found = program.pareto([name]) if points else []
    assert list(getattr(found, "costs", [])) == [cost for cost, _ in expected]
    for point, (cost, value) in enumerate(expected):
        widths = found.widths(point)
        assert total(program, widths, name) == cost
        assert loss(program, widths) == pytest.approx(value) == pytest.approx(found.losses[point])


@given(program=programs(), data=st.data())
@settings(max_examples=EXAMPLES)
def test_a_fixed_variable_reduces_factors_and_changes_nothing(program, data):
    """What is fixed before is what has one candidate, and what a choice happens to have."""
    fixed = {
        variable: data.draw(st.sampled_from(sorted(table)))
        for variable, table in program.losses.items()
        if data.draw(st.booleans())
    }
    pinned = Program(
        {v: {b: table[b] for b in table if fixed.get(v, b) == b} for v, table in _losses(program)},
        program.factors,
        None,
    )
    free = {v: table for v, table in pinned.losses.items() if v not in fixed}
    reduced = Program(free, [factor.given(fixed) for factor in program.factors], None)
    own = sum(program.losses[variable][bits] for variable, bits in fixed.items())
    left, right = pinned.best({"bytes": 120}), reduced.best({"bytes": 120})
    assert (left is None) == (right is None)
    if left is not None:
        assert loss(pinned, left) == pytest.approx(loss(reduced, right) + own, abs=1e-6)


def _losses(program):
    return program.losses.items()


@given(program=programs(), data=st.data())
@settings(max_examples=EXAMPLES)
def test_a_change_is_the_difference_of_two_sums(program, data):
    every = list(choices(program))
    if not every:
        return
    old = data.draw(st.sampled_from(every))
    moved = {
        variable: data.draw(st.sampled_from(sorted(table)))
        for variable, table in program.losses.items()
        if data.draw(st.booleans())
    }
    new, added = {**old, **moved}, program.change(old, moved)
    unordered = Program(program.losses, program.factors)
    assert (added is not None) == unordered.is_allowed(new)
    if added is not None:
        for name in NAMES:
            assert added.get(name, 0) == total(program, new, name) - total(program, old, name)


def test_the_frontier_of_products_falls_and_every_point_is_an_optimum():
    """Bit operations of three layers in a row."""
    generator = np.random.default_rng(3)
    layers, groups = [weights(n) for n in "abc"], [activations(n) for n in "wxyz"]
    widths = dict.fromkeys(layers, WIDTHS) | dict.fromkeys(groups, (4, 8))
    losses = {
        v: dict(zip(bits, np.sort(generator.exponential(size=len(bits)))[::-1], strict=True))
        for v, bits in widths.items()
    }
    factors = [
        Factor((v, x), {(b, c): {"operations": b * c} for b in WIDTHS for c in (4, 8)})
        for v, x in zip(layers, groups, strict=False)
    ]
    program = Program(losses, factors)
    frontier = program.pareto(["operations"])
    assert np.all(np.diff(frontier.costs) > 0)
    assert np.all(np.diff(frontier.losses) < 0)
    every = [(total(program, w, "operations"), loss(program, w)) for w in choices(program)]
    for point in range(len(frontier)):
        best = min(value for cost, value in every if cost <= frontier.costs[point])
        assert frontier.losses[point] == pytest.approx(best)
    assert frontier.costs[0] == min(cost for cost, _ in every)


def test_bounds_are_met_exactly_where_the_solver_has_a_tolerance():
    """Costs of 1e9 that exceed a bound by one, a billionth: less than the solver can see."""
    costs = {"bytes": {"a": {2: 1, 8: 10**9 + 1}}, "operations": {"a": {2: 1, 8: 2}}}
    program = separable({"a": {2: 1.0, 8: 0.0}}, costs)
    limits = {"bytes": 10**9, "operations": 9}
    assert program.best(limits) == {weights("a"): 2}


def test_a_bound_of_what_no_width_decides_is_checked():
    program = separable({"a": {2: 1.0, 8: 0.0}}, {"bytes": {"a": {2: 2, 8: 8}}})
    program = Program(program.losses, [*program.factors, constant({"peak": 9.0})])
    assert program.best({"bytes": 8, "peak": 8.0}) is None
    assert program.best({"bytes": 8, "peak": 9.0}) == {weights("a"): 8}
    assert "peak" not in program.decided
