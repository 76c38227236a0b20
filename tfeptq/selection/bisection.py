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

from collections.abc import Callable, Sequence

import numpy as np

from tfeptq.selection.factor import Variable, Widths
from tfeptq.selection.program import Program

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


def bisect_layers(
    program: Program, costs: Sequence[str], holds: Callable[[Widths], bool]
) -> list[Widths]:
    """Choices that hold, each cheaper than the one before; the last one is the answer.

    Args:
        program: losses and costs of layers, and of groups of activations where those are chosen:
            they are ordered together, their losses being of one kind.
        costs: names of the costs whose sum is to be lowered.
        holds: whether a choice meets the target; called once a choice.

    Returns:
        every choice along the search that held, beginning with all layers at their widest; empty
        where that does not hold.
    """
    widths = program.widest()
    if not holds(widths):
        return []
    held = [widths]
    prefix, losses = list(program.losses), program.losses
    for bits in sorted({b for table in losses.values() for b in table}, reverse=True):
        saved = {v: _saved(program, costs, widths, v, bits) for v in prefix}
        able = [variable for variable in prefix if saved[variable] > 0.0]
        able.sort(key=lambda variable: (losses[variable][bits], -saved[variable]))
        able = _executable(program, widths, able, bits)
        taken, widths = _longest_prefix(able, bits, widths, holds, held)
        prefix = able[:taken] + [variable for variable in prefix if variable not in able]
    return held


def _saved(
    program: Program, costs: Sequence[str], widths: Widths, variable: Variable, bits: int
) -> float:
    """What a narrower width of one variable saves; nothing where a wider one saves as much."""
    options = program.losses[variable]
    if bits not in options or bits >= widths[variable]:
        return 0.0
    saved = {0: 0.0}
    for width in options:
        added = program.change(widths, {variable: width})
        if width >= bits and added is not None:
            saved[width] = -sum(added.get(name, 0) for name in costs)
    narrow = saved.pop(bits, 0.0)
    return narrow if narrow > max(saved.values()) else 0.0


def _executable(
    program: Program, widths: Widths, variables: list[Variable], bits: int
) -> list[Variable]:
    """Those that can take `bits` together with all before them."""
    kept: list[Variable] = []
    for variable in variables:
        narrower = {**widths, variable: bits}
        if program.is_allowed(narrower):
            kept.append(variable)
            widths = narrower
    return kept


def _longest_prefix(
    variables: list[Variable],
    bits: int,
    widths: Widths,
    holds: Callable[[Widths], bool],
    held: list[Widths],
) -> tuple[int, Widths]:
    """How many of `variables`, in order, can take `bits`, and the choice where they do."""
    low, high = 0, len(variables)
    best = widths
    while low < high:
        # From above at first: where everything fits, one evaluation finds it.
        middle = high if low == 0 and high == len(variables) else (low + high + 1) // 2
        candidate = {**widths, **dict.fromkeys(variables[:middle], bits)}
        if holds(candidate):
            low, best = middle, candidate
            held.append(candidate)
        else:
            high = middle - 1
    return low, best
