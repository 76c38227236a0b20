"""Frontier and selection against enumeration of every combination."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tfeptq.selection import frontier as frontier_module
from tfeptq.selection.frontier import pareto
from tfeptq.selection.selection import select

WIDTHS = (2, 3, 4, 8)


def problem(seed, layers=5, widths=WIDTHS):
    """Random losses, that fall with the width, and two unrelated integer costs, that rise."""
    generator = np.random.default_rng(seed)
    losses, first, second = {}, {}, {}
    for index in range(layers):
        name = f"layer{index}"
        values = np.sort(generator.exponential(size=len(widths)))[::-1]
        losses[name] = dict(zip(widths, values.tolist(), strict=True))
        first[name] = {bits: int(bits * generator.integers(1, 50)) for bits in widths}
        second[name] = {bits: int(bits * generator.integers(1, 50)) for bits in widths}
    losses["pinned"], first["pinned"], second["pinned"] = {8: 0.5}, {8: 7}, {8: 7}
    return losses, first, second


def total(table, widths):
    return sum(table[name][bits] for name, bits in widths.items())


def enumerated(losses, order=None):
    for choice in itertools.product(*losses.values()):
        widths = dict(zip(losses, choice, strict=True))
        bits = [widths[name] for name in order or () if len(losses[name]) > 1]
        if bits == sorted(bits):
            yield widths


@pytest.mark.parametrize(
    "order", [None, ["layer3", "pinned", "layer0", "layer4", "layer1", "layer2"]]
)
@pytest.mark.parametrize("seed", range(4))
def test_the_frontier_is_that_of_brute_force(seed, order):
    losses, costs, _ = problem(seed)
    points = [(total(costs, w), total(losses, w)) for w in enumerated(losses, order)]
    expected = [
        (cost, loss)
        for cost, loss in sorted(set(points))
        if not any(c <= cost and v <= loss and (c, v) != (cost, loss) for c, v in points)
    ]
    found = pareto(losses, costs, order=order)
    assert found.costs.tolist() == [cost for cost, _ in expected]
    np.testing.assert_allclose(found.losses, [loss for _, loss in expected], rtol=1e-12)
    for index in range(len(found)):
        widths = found.widths(index)
        assert list(widths) == (list(losses) if order is None else order)
        assert total(costs, widths) == found.costs[index]
        assert total(losses, widths) == pytest.approx(found.losses[index])


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_several_budgets_are_met_at_least_loss(seed, ordered):
    losses, first, second = problem(seed)
    order = list(losses) if ordered else None
    limits = {"weight_bytes": 420.0, "bit_operations": 400.0}
    costs = {"weight_bytes": first, "bit_operations": second}
    fitting = [
        total(losses, widths)
        for widths in enumerated(losses, order)
        if all(total(costs[name], widths) <= limit for name, limit in limits.items())
    ]
    if not fitting:
        with pytest.raises(ValueError, match="budget"):
            select(losses, costs, limits, order=order)
        return
    widths = select(losses, costs, limits, order=order)
    assert all(total(costs[name], widths) <= limit for name, limit in limits.items())
    assert total(losses, widths) == pytest.approx(min(fitting))


def test_one_budget_takes_the_best_point_within():
    losses, costs, _ = problem(0)
    widths = select(losses, {"weight_bytes": costs}, {"weight_bytes": 300})
    fitting = [w for w in enumerated(losses) if total(costs, w) <= 300]
    assert total(losses, widths) == pytest.approx(min(total(losses, w) for w in fitting))


def test_an_impossible_budget_says_what_is_possible_and_what_limits_it():
    losses, costs, _ = problem(0)
    smallest = sum(min(entries.values()) for entries in costs.values())
    message = rf"weight_bytes=3 cannot be met: the smallest possible is {smallest}, of which 7 in"
    with pytest.raises(ValueError, match=message):
        select(losses, {"weight_bytes": costs}, {"weight_bytes": 3})


def test_budgets_that_exclude_each_other_are_refused():
    losses = {"a": {2: 1.0, 8: 0.0}}
    costs = {"weight_bytes": {"a": {2: 1, 8: 9}}, "latency_ms": {"a": {2: 9, 8: 1}}}
    with pytest.raises(ValueError, match="at once, though each bound alone"):
        select(losses, costs, {"weight_bytes": 5, "latency_ms": 5})


def test_thinning_keeps_the_ends_and_stays_close(monkeypatch):
    losses, costs, _ = problem(1, layers=14)
    exact = pareto(losses, costs)
    monkeypatch.setattr(frontier_module, "LIMIT", 40)
    thin = pareto(losses, costs)
    assert len(thin) < len(exact)
    assert (thin.costs[0], thin.losses[-1]) == (exact.costs[0], pytest.approx(exact.losses[-1]))
    for limit in np.linspace(exact.costs[0] * 1.2, exact.costs[-1], 7):
        loss, best = (f.losses[f.best_within(limit)] for f in (thin, exact))
        assert best <= loss <= 1.1 * best


def test_fifty_layers_of_a_network_take_seconds():
    losses, costs, _ = problem(2, layers=54)
    found = pareto(losses, costs)
    assert found.best_within(found.costs[-1]) == len(found) - 1
    assert found.best_within(found.costs[0] - 1) is None
