"""The exact Pareto frontier of predicted loss against one cost, by dynamic programming.

Losses and costs add up over layers (HAWQ-V2, arXiv 1911.03852, section 3.2), so the frontier of the
first k layers, extended by every width of the next one and pruned of what is dominated, is the
frontier of k + 1 layers. One pass gives the optimum for every budget.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

#: More partial solutions than this are thinned to equal cells of cost, the best of each kept.
#: Reached only where hardly any two layers share a size; what is given up is below 1 / LIMIT.
LIMIT = 200_000

Table = Mapping[str, Mapping[int, float]]


@dataclasses.dataclass(frozen=True)
class Frontier:
    """Undominated choices of widths, from the cheapest to the most accurate.

    Attributes:
        costs, losses: float64 (points,); costs rise, losses fall.
    """

    costs: np.ndarray
    losses: np.ndarray
    _layers: tuple[tuple[str, tuple[int, ...]], ...]
    _parents: tuple[np.ndarray, ...]
    _choices: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.costs)

    def widths(self, point: int) -> dict[str, int]:
        """Layer name -> width of one point."""
        index, result = point, {}
        backwards = zip(self._layers, self._parents, self._choices, strict=True)
        for (name, widths), parents, choices in reversed(list(backwards)):
            result[name] = widths[choices[index]]
            index = parents[index]
        return {name: result[name] for name, _ in self._layers}

    def best_within(self, limit: float) -> int | None:
        """The point of least loss that costs at most `limit`; None where all cost more."""
        count = int(np.searchsorted(self.costs, limit, side="right"))
        return count - 1 if count else None


@dataclasses.dataclass
class _Partial:
    """Undominated choices for the layers so far.

    `state` is the least width (its rank) that the next layer may take.
    """

    costs: np.ndarray
    losses: np.ndarray
    state: np.ndarray


def pareto(losses: Table, costs: Table, *, order: Sequence[str] | None = None) -> Frontier:
    """Frontier over all combinations of one width a layer.

    Args:
        losses, costs: layer name -> width -> what it adds; the same layers and widths.
        order: layers by rising average trace, for HAWQ-V2's rule: a later layer never gets fewer
            bits. Layers with a single candidate are bound by nothing.
    """
    ranks = sorted({bits for table in losses.values() for bits in table})
    names = list(losses) if order is None else list(order)
    partial = _Partial(np.zeros(1), np.zeros(1), np.zeros(1, np.int64))
    layers, parents, choices = [], [], []
    for index, name in enumerate(names):
        widths = tuple(losses[name])
        is_bound = order is not None and len(widths) > 1
        partial, kept = _extended(
            partial,
            np.array([losses[name][bits] for bits in widths]),
            np.array([costs[name][bits] for bits in widths], np.float64),
            np.array([ranks.index(bits) for bits in widths]) if is_bound else None,
            is_last=index == len(names) - 1,
        )
        layers.append((name, widths))
        parents.append((kept // len(widths)).astype(np.int32))
        choices.append((kept % len(widths)).astype(np.int8))
    return Frontier(partial.costs, partial.losses, tuple(layers), tuple(parents), tuple(choices))


def _extended(
    partial: _Partial,
    losses: np.ndarray,
    costs: np.ndarray,
    ranks: np.ndarray | None,
    *,
    is_last: bool,
) -> tuple[_Partial, np.ndarray]:
    """Every partial choice with every width of one more layer, pruned.

    Returns:
        the new partial choices, and for each its index in (old choices, widths), flattened.
    """
    all_costs = np.add.outer(partial.costs, costs).reshape(-1)
    all_losses = np.add.outer(partial.losses, losses).reshape(-1)
    old = np.repeat(partial.state, len(costs))
    new = old if ranks is None else np.tile(ranks, len(partial.state))
    allowed = np.flatnonzero(new >= old)
    # Different states allow different futures: dominance holds within one, at the end among all.
    groups = np.zeros_like(new) if is_last else new
    kept = np.concatenate(
        [
            _undominated(all_costs, all_losses, allowed[groups[allowed] == group])
            for group in np.unique(groups[allowed])
        ]
    )
    return _Partial(all_costs[kept], all_losses[kept], new[kept]), kept


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
