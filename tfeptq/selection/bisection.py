"""The fewest bits that still hold a metric, by bisection guided by sensitivities.

Along the Pareto frontier (`bisect_frontier`): its points are ordered by predicted loss, and the
cheapest that holds is found within 1 % of the cost in about ten evaluations. Along the order
of layers (`bisect_layers`), after "Augmenting Hessians with Inter-Layer Dependencies" (arXiv
2306.04879), algorithm 1: all layers start at their widest; for each narrower width in turn, layers
are ordered by rising predicted loss at that width, and the longest prefix of them that can take it
is found by bisection; the next width is tried within that prefix. About
(widths - 1) * log2(layers) evaluations. It looks at no cost but to break ties.

Where the answer misses after the whole recipe, `step_back` looks for a dearer one that holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tfeptq.selection.frontier import Table

Widths = dict[str, int]
#: Parts of the cost that evaluations, and whole recipes, are not spent on.
PRECISION, RESOLUTION = 0.01, 0.05


def bisect_frontier(costs: np.ndarray, holds: Callable[[int], bool]) -> int | None:
    """The cheapest point that holds, within `PRECISION`; None where the most accurate does not.

    Args:
        costs: of the frontier's points, rising, positive. Large networks have many thousands of
            points: what is halved is the range of costs, not of points.
        holds: whether a point meets the target; called once a point.
    """
    high = len(costs) - 1
    if not holds(high):
        return None
    held = _between(costs, 0, high, holds, PRECISION)
    is_next = held == 1 or costs[held] <= costs[0] * (1.0 + PRECISION)
    return 0 if held and is_next and holds(0) else held


def step_back(costs: np.ndarray, holds: Callable[[int], bool]) -> int | None:
    """The first choice, or where it misses the cheapest dearer one that is found to hold.

    Costs are raised by `RESOLUTION`, then by steps that double; once a choice holds, bisection
    between it and the last that missed goes on to the same resolution.

    Args:
        costs: of the choices, rising, positive.
        holds: whether a choice meets the target; called once a choice.

    Returns:
        index of the choice; None where the dearest misses.
    """
    if holds(0):
        return 0
    missed, last, step = 0, len(costs) - 1, RESOLUTION
    while missed < last:
        dearer = int(np.searchsorted(costs, costs[missed] * (1.0 + step)))
        tried = min(max(dearer, missed + 1), last)
        if holds(tried):
            return _between(costs, missed, tried, holds, RESOLUTION)
        missed, step = tried, 2.0 * step
    return None


def _between(
    costs: np.ndarray, missed: int, held: int, holds: Callable[[int], bool], precision: float
) -> int:
    while held - missed > 1 and costs[held] > costs[missed] * (1.0 + precision):
        middle = int(np.searchsorted(costs, (costs[missed] + costs[held]) / 2.0))
        tried = min(max(middle, missed + 1), held - 1)
        if holds(tried):
            held = tried
        else:
            missed = tried
    return held


def bisect_layers(losses: Table, costs: Table, holds: Callable[[Widths], bool]) -> list[Widths]:
    """Choices that hold, each cheaper than the one before; the last one is the answer.

    Args:
        losses, costs: layer name -> width -> predicted loss, and the cost to be lowered.
        holds: whether a choice meets the target; called once a choice.

    Returns:
        every choice along the search that held, beginning with all layers at their widest; empty
        where that does not hold.
    """
    useful = {name: _useful(table) for name, table in costs.items()}
    widths: Widths = {name: options[0] for name, options in useful.items()}
    if not holds(widths):
        return []
    held = [widths]
    prefix = list(losses)
    for bits in sorted({b for options in useful.values() for b in options[1:]}, reverse=True):
        able = [name for name in prefix if bits in useful[name][1:]]
        able.sort(key=lambda name: (losses[name][bits], -_saved(costs[name], widths[name], bits)))
        taken, widths = _longest_prefix(able, bits, widths, holds, held)
        prefix = able[:taken] + [name for name in prefix if name not in able]
    return held


def _useful(costs: Mapping[int, float]) -> list[int]:
    """Widths, descending, that cost less than every wider one."""
    kept: list[int] = []
    for bits in sorted(costs, reverse=True):
        if not kept or costs[bits] < costs[kept[-1]]:
            kept.append(bits)
    return kept


def _saved(costs: Mapping[int, float], old: int, new: int) -> float:
    return costs[old] - costs[new]


def _longest_prefix(
    names: list[str],
    bits: int,
    widths: Widths,
    holds: Callable[[Widths], bool],
    held: list[Widths],
) -> tuple[int, Widths]:
    """How many of `names`, in order, can take `bits`, and the choice where they do."""
    low, high = 0, len(names)
    best = widths
    while low < high:
        # From above at first: where everything fits, one evaluation finds it.
        middle = high if low == 0 and high == len(names) else (low + high + 1) // 2
        candidate = {**widths, **dict.fromkeys(names[:middle], bits)}
        if holds(candidate):
            low, best = middle, candidate
            held.append(candidate)
        else:
            high = middle - 1
    return low, best
