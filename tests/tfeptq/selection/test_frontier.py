"""The exact frontier of networks of many layers, and what is said of budgets that nothing meets."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tfeptq.selection.programs import WIDTHS, choices, named, separable, total
from tfeptq.selection import frontier as frontier_module
from tfeptq.selection.choice import Choice
from tfeptq.selection.factor import weights


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
    return losses, {"weight_bytes": first, "bit_operations": second}


@pytest.mark.parametrize(
    "order", [None, ["layer3", "pinned", "layer0", "layer4", "layer1", "layer2"]]
)
@pytest.mark.parametrize("seed", range(4))
def test_the_frontier_is_that_of_brute_force(seed, order):
    losses, costs = problem(seed)
    program = separable(losses, costs, order=order)
    points = {(total(program, w, "weight_bytes"), program.loss(w)) for w in choices(program)}
    expected = [
        (cost, loss)
        for cost, loss in sorted(points)
        if not any(c <= cost and v <= loss and (c, v) != (cost, loss) for c, v in points)
    ]
    found = program.pareto(["weight_bytes"])
    assert found.costs.tolist() == [cost for cost, _ in expected]
    np.testing.assert_allclose(found.losses, [loss for _, loss in expected], rtol=1e-12)
    for index in range(len(found)):
        widths = found.widths(index)
        assert list(named(widths)) == list(losses)
        assert total(program, widths, "weight_bytes") == found.costs[index]
        assert program.loss(widths) == pytest.approx(found.losses[index])


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_several_budgets_are_met_at_least_loss(seed, ordered):
    losses, costs = problem(seed)
    program = separable(losses, costs, order=list(losses) if ordered else None)
    limits = {"weight_bytes": 420.0, "bit_operations": 400.0}
    fitting = [
        program.loss(widths)
        for widths in choices(program)
        if all(total(program, widths, name) <= limit for name, limit in limits.items())
    ]
    if not fitting:
        with pytest.raises(ValueError, match="budget"):
            Choice(program).within(limits)
        return
    widths = Choice(program).within(limits)
    assert all(total(program, widths, name) <= limit for name, limit in limits.items())
    assert program.loss(widths) == pytest.approx(min(fitting))


def test_an_impossible_budget_says_what_is_possible_and_what_limits_it():
    losses, costs = problem(0)
    smallest = sum(min(entries.values()) for entries in costs["weight_bytes"].values()) + 3
    message = (
        rf"weight_bytes=3 cannot be met: the smallest possible is {smallest}, of which 7 in "
        r"layers with one .* and 3 in operators without weights; the largest parts are layer\d \d+"
    )
    with pytest.raises(ValueError, match=message):
        Choice(separable(losses, costs, constants={"weight_bytes": 3})).within({"weight_bytes": 3})


def test_an_order_that_costs_more_is_counted_in_what_is_possible():
    """The flatter layer cannot be narrower than 4 bits, so the other one cannot either."""
    losses = {"a": {4: 1.0, 8: 0.0}, "b": {2: 1.0, 4: 0.5, 8: 0.0}}
    costs = {"weight_bytes": {name: {bits: bits for bits in losses[name]} for name in losses}}
    choice = Choice(separable(losses, costs, order=["a", "b"]))
    assert named(choice.within({"weight_bytes": 8})) == {"a": 4, "b": 4}
    with pytest.raises(ValueError, match="the smallest possible is 8,"):
        choice.within({"weight_bytes": 7})


def test_budgets_that_exclude_each_other_are_refused():
    losses = {"a": {2: 1.0, 8: 0.0}}
    costs = {"weight_bytes": {"a": {2: 1, 8: 9}}, "latency_ms": {"a": {2: 9, 8: 1}}}
    with pytest.raises(ValueError, match="at once, though each bound alone"):
        Choice(separable(losses, costs)).within({"weight_bytes": 5, "latency_ms": 5})


def test_thinning_keeps_the_ends_and_stays_close(monkeypatch):
    exact = separable(*problem(1, layers=14)).pareto(["weight_bytes"])
    monkeypatch.setattr(frontier_module, "LIMIT", 40)
    thin = separable(*problem(1, layers=14)).pareto(["weight_bytes"])
    assert len(thin) < len(exact)
    assert (thin.costs[0], thin.losses[-1]) == (exact.costs[0], pytest.approx(exact.losses[-1]))
    for limit in np.linspace(exact.costs[0] * 1.2, exact.costs[-1], 7):
        loss, best = (f.losses[f.best_within(limit)] for f in (thin, exact))
        assert best <= loss <= 1.1 * best


def test_fifty_layers_of_a_network_take_seconds():
    found = separable(*problem(2, layers=54)).pareto(["weight_bytes"])
    assert found.best_within(found.costs[-1]) == len(found) - 1
    assert found.best_within(found.costs[0] - 1) is None
    assert found.widths(0)[weights("pinned")] == 8
