"""Widths of least predicted loss within a budget; exact for one bound and for several."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize, sparse

from tfeptq.selection.frontier import Table, pareto


def select(
    losses: Table,
    costs: Mapping[str, Table],
    limits: Mapping[str, float],
    *,
    constants: Mapping[str, float] | None = None,
    order: Sequence[str] | None = None,
) -> dict[str, int]:
    """Layer name -> width, of least total loss under every limit.

    Args:
        losses: layer name -> width -> predicted loss.
        costs: cost name -> layer name -> width -> cost, at least for the names in `limits`.
        limits: cost name -> bound. One bound is solved by dynamic programming, several by HiGHS.
        constants: cost name -> what comes on top of every choice.
        order: layers by rising average trace, see `pareto`.

    Raises:
        ValueError: a bound that nothing meets; says the smallest possible and what limits it.
    """
    constants = constants or {}
    for name, limit in limits.items():
        check_limit(costs[name], name, limit, constants.get(name, 0.0))
    left = {name: limit - constants.get(name, 0.0) for name, limit in limits.items()}
    if len(left) == 1:
        ((name, limit),) = left.items()
        frontier = pareto(losses, costs[name], order=order)
        point = frontier.best_within(limit)
        assert point is not None
        return frontier.widths(point)
    return _solved(losses, costs, left, order)


def check_limit(table: Table, name: str, limit: float, constant: float = 0.0) -> None:
    """Refuses a bound below the sum of every layer's cheapest candidate."""
    cheapest = {layer: min(entries, key=entries.__getitem__) for layer, entries in table.items()}
    least = {layer: table[layer][bits] for layer, bits in cheapest.items()}
    smallest = sum(least.values()) + constant
    if smallest <= limit:
        return
    fixed = sum(least[layer] for layer, entries in table.items() if len(entries) == 1)
    largest = sorted(least, key=least.__getitem__, reverse=True)[:3]
    parts = ", ".join(f"{layer} {least[layer]:g} at {cheapest[layer]} bits" for layer in largest)
    others = f" and {constant:g} in operators without weights" if constant else ""
    raise ValueError(
        f"budget {name}={limit:g} cannot be met: the smallest possible is {smallest:g}, of which "
        f"{fixed:g} in layers with one candidate only (first_last_bits, or what the target "
        f"stores){others}; the largest parts are {parts}. Allow narrower weight_bits or "
        "first_last_bits, or a larger budget"
    )


def _solved(
    losses: Table,
    costs: Mapping[str, Table],
    limits: Mapping[str, float],
    order: Sequence[str] | None,
) -> dict[str, int]:
    """One binary variable a candidate, one chosen a layer (HiGHS, exact)."""
    candidates = [(layer, bits) for layer, entries in losses.items() for bits in entries]
    objective = np.array([losses[layer][bits] for layer, bits in candidates])
    # HiGHS works to absolute tolerances: bring every row to the order of one.
    objective = objective / max(float(np.abs(objective).max()), 1e-300)
    constraints = [_one_each(candidates, list(losses))]
    for name, limit in limits.items():
        row = np.array([costs[name][layer][bits] for layer, bits in candidates]) / limit
        constraints.append(optimize.LinearConstraint(row[None], -np.inf, 1.0))
    if order is not None:
        constraints += _ordered(candidates, losses, order)
    result = optimize.milp(
        objective,
        integrality=np.ones(len(candidates)),
        bounds=optimize.Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    if result.x is None:
        bounds = ", ".join(f"{name}={limit:g}" for name, limit in limits.items())
        raise ValueError(
            f"no choice of widths meets the budget {bounds} at once, though each bound alone can "
            f"be met: {result.message}"
        )
    return {layer: bits for (layer, bits), x in zip(candidates, result.x, strict=True) if x > 0.5}


def _one_each(
    candidates: Sequence[tuple[str, int]], layers: Sequence[str]
) -> optimize.LinearConstraint:
    rows = [layers.index(layer) for layer, _ in candidates]
    ones = np.ones(len(candidates))
    matrix = sparse.csr_array((ones, (rows, np.arange(len(candidates)))))
    return optimize.LinearConstraint(matrix, 1.0, 1.0)


def _ordered(
    candidates: Sequence[tuple[str, int]], losses: Table, order: Sequence[str]
) -> list[optimize.LinearConstraint]:
    """Bits of each layer at most those of the next in `order`."""
    free = [layer for layer in order if len(losses[layer]) > 1]
    constraints = []
    for lower, higher in itertools.pairwise(free):
        signs = {lower: -1.0, higher: 1.0}
        row = np.array([signs.get(layer, 0.0) * bits for layer, bits in candidates])
        constraints.append(optimize.LinearConstraint(row[None], 0.0, np.inf))
    return constraints
