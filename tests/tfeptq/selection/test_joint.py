"""The joint program against enumeration of every combination."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tfeptq.selection.joint import Factor, Program

WEIGHTS = (2, 3, 8)
ACTIVATIONS = (4, 8)
A, B, C = (("weights", name) for name in "abc")
X, Y = (("activations", name) for name in "xy")
VARIABLES = {**dict.fromkeys((A, B, C), WEIGHTS), **dict.fromkeys((X, Y), ACTIVATIONS)}


def program(seed):
    """Three layers between two groups of activations; b cannot have 3 bits where y has 8."""
    generator = np.random.default_rng(seed)
    losses = {
        name: dict(zip(widths, np.sort(generator.exponential(size=len(widths)))[::-1], strict=True))
        for name, widths in VARIABLES.items()
    }
    factors = [
        Factor(
            (A, X),
            {(w, x): {"operations": 5.0 * w * x, "bytes": w} for w in WEIGHTS for x in ACTIVATIONS},
        ),
        Factor(
            (B, X, Y),
            {
                (w, x, y): {"operations": 3.0 * w * min(x, y), "bytes": 2 * w, "peak0": x + 2 * y}
                for w in WEIGHTS
                for x in ACTIVATIONS
                for y in ACTIVATIONS
                if (w, y) != (3, 8)
            },
        ),
        Factor((C,), {(w,): {"bytes": 4 * w} for w in WEIGHTS}),
        Factor((Y,), {(y,): {"peak1": 2.5 * y} for y in ACTIVATIONS}),
    ]
    return losses, factors, Program(losses, factors)


def every_choice(factors):
    for widths in itertools.product(*VARIABLES.values()):
        choice = dict(zip(VARIABLES, widths, strict=True))
        if all(tuple(choice[v] for v in factor.variables) in factor.costs for factor in factors):
            yield choice


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "limits",
    [
        {"operations": 200.0},
        {"operations": 260.0, "bytes": 30.0},
        {"peak0": 16.0, "peak1": 15.0, "bytes": 25.0},
        {},
    ],
)
def test_the_choice_is_that_of_brute_force(seed, limits):
    losses, factors, found = program(seed)
    fitting = [
        choice
        for choice in every_choice(factors)
        if all(found.cost(choice, name) <= limit for name, limit in limits.items())
    ]
    best = found.best(limits)
    assert best in fitting
    assert found.loss(best) == pytest.approx(min(found.loss(choice) for choice in fitting))
    assert found.loss(best) == pytest.approx(sum(losses[v][bits] for v, bits in best.items()))


def test_the_least_of_the_largest_cost_is_that_of_brute_force():
    _, factors, found = program(0)
    for names in (["bytes"], ["operations"], ["peak0", "peak1"]):
        least = found.least(names)
        expected = min(max(found.cost(c, n) for n in names) for c in every_choice(factors))
        assert max(found.cost(least, name) for name in names) == pytest.approx(expected)


def test_what_nothing_meets_is_none_and_forbidden_combinations_stay_forbidden():
    losses, factors, found = program(0)
    assert found.best({"bytes": 1.0}) is None
    forbidden = [*factors, Factor((B,), {(3,): {}}), Factor((Y,), {(8,): {}})]
    with pytest.raises(ValueError, match="can be executed"):
        Program(losses, forbidden).least(["bytes"])
