"""The exact Pareto frontier of predicted loss against one cost, by dynamic programming.

Losses and costs add up over variables (HAWQ-V2, arXiv 1911.03852, section 3.2), so the frontier of
the first k, extended by every width of the next one and pruned of what is dominated, is the
frontier of k + 1. One pass gives the optimum for every budget.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tfeptq.selection.factor import Table, Variable, Widths

#: More partial solutions than this are thinned to equal cells of cost, the best of each kept.
#: Reached only where hardly any two layers share a size; what is given up is below 1 / LIMIT.
LIMIT = 200_000


@dataclasses.dataclass(frozen=True)
class Frontier:
    """Undominated choices of widths, from the cheapest to the most accurate.

    Attributes:
        costs, losses: float64 (points,); costs rise, losses fall.
        widths: those of one point.
    """

    costs: np.ndarray
    losses: np.ndarray
    widths: Callable[[int], Widths]

    def __len__(self) -> int:
        return len(self.costs)

    def best_within(self, limit: float) -> int | None:
        """The point of least loss that costs at most `limit`; None where all cost more."""
        count = int(np.searchsorted(self.costs, limit, side="right"))
        return count - 1 if count else None


@dataclasses.dataclass(frozen=True)
class _Steps:
    """How every partial choice came about, variable by variable."""

    options: list[tuple[Variable, tuple[int, ...]]] = dataclasses.field(default_factory=list)
    parents: list[np.ndarray] = dataclasses.field(default_factory=list)
    choices: list[np.ndarray] = dataclasses.field(default_factory=list)

    def add(self, variable: Variable, widths: tuple[int, ...], kept: np.ndarray) -> None:
        self.options.append((variable, widths))
        self.parents.append((kept // len(widths)).astype(np.int32))
        self.choices.append((kept % len(widths)).astype(np.int8))

    def widths(self, point: int) -> Widths:
        index, result = point, {}
        steps = zip(self.options, self.parents, self.choices, strict=True)
        for (variable, widths), parents, choices in reversed(list(steps)):
            result[variable] = widths[choices[index]]
            index = parents[index]
        return {variable: result[variable] for variable, _ in self.options}


@dataclasses.dataclass
class _Partial:
    """Undominated choices for the variables so far.

    `state` is the least width (its rank) that the next ordered variable may take.
    """

    costs: np.ndarray
    losses: np.ndarray
    state: np.ndarray


def pareto(losses: Table, costs: Table, *, order: Sequence[Variable] | None = None) -> Frontier:
    """Frontier over all combinations of one width a variable; empty where none is in order.

    Args:
        losses, costs: variable -> width -> what it adds; those of `losses` are the candidates.
        order: variables whose widths may not fall from one to the next.
    """
    ranks = sorted({bits for table in losses.values() for bits in table})
    ordered = tuple(order or ())
    variables = [*ordered, *(variable for variable in losses if variable not in ordered)]
    partial, steps = _Partial(np.zeros(1), np.zeros(1), np.zeros(1, np.int64)), _Steps()
    for variable in variables:
        widths = tuple(losses[variable])
        partial, kept = _extended(
            partial,
            np.array([losses[variable][bits] for bits in widths]),
            np.array([costs[variable][bits] for bits in widths], np.float64),
            np.array([ranks.index(bits) for bits in widths]) if variable in ordered else None,
            is_free=variable not in ordered[:-1],
        )
        steps.add(variable, widths, kept)
    return Frontier(partial.costs, partial.losses, steps.widths)


def _extended(
    partial: _Partial,
    losses: np.ndarray,
    costs: np.ndarray,
    ranks: np.ndarray | None,
    *,
    is_free: bool,
) -> tuple[_Partial, np.ndarray]:
    """Every partial choice with every width of one more variable, pruned.

    Args:
        is_free: nothing that follows is bound by the state.

    Returns:
        the new partial choices, and for each its index in (old choices, widths), flattened.
    """
    all_costs = np.add.outer(partial.costs, costs).reshape(-1)
    all_losses = np.add.outer(partial.losses, losses).reshape(-1)
    old = np.repeat(partial.state, len(costs))
    new = old if ranks is None else np.tile(ranks, len(partial.state))
    allowed = np.flatnonzero(new >= old)
    # Different states allow different futures: dominance holds within one.
    groups = np.zeros_like(new) if is_free else new
    kept = [
        _undominated(all_costs, all_losses, allowed[groups[allowed] == group])
        for group in np.unique(groups[allowed])
    ]
    found = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    return _Partial(all_costs[found], all_losses[found], new[found]), found


def _undominated(costs: np.ndarray, losses: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Indices among `among` that nothing cheaper or equal beats, by rising cost."""
    ordered = among[np.lexsort((losses[among], costs[among]))]
    best_before = np.minimum.accumulate(losses[ordered])[:-1]
    is_better = np.concatenate([[True], losses[ordered][1:] < best_before])
    return _thinned(costs, ordered[is_better])


def _thinned(costs: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The cheapest, and of each cell of cost the last, which has the least loss."""
    if len(kept) <= LIMIT:
        return kept
    low, high = costs[kept[0]], costs[kept[-1]]
    cells = np.floor((costs[kept] - low) / (high - low) * LIMIT)
    is_last_of_cell = np.concatenate([cells[1:] != cells[:-1], [True]])
    is_last_of_cell[0] = True
    return kept[is_last_of_cell]
