"""A predicted choice improved by measurements: the second order ends where few bits begin.

Predictions add up terms of small errors. At 2 and 3 bits errors are not small, and a choice that
looks best can be worse than one width for all. So the prediction's optimum is measured against
those of other predictions and the uniform widths that fit as well, and the best of them is improved
by single steps: one variable a width up, and where that exceeds a bound, another one down.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from tfeptq.selection.factor import Variable, Widths
from tfeptq.selection.program import Program


def refined(
    program: Program,
    starts: Sequence[Widths],
    limits: Mapping[str, float],
    measure: Callable[[Widths], float],
    *,
    moves: int,
) -> Widths:
    """The best choice measured, never worse than any of `starts` or a uniform width that fits.

    Args:
        program: what is allowed, and predictions: promising moves are measured first.
        starts: choices within the limits.
        limits: cost name -> what it may add up to.
        measure: loss of a choice.
        moves: most measurements of changed choices.
    """
    search = _Search(program, limits)
    best = min([*starts, *search.uniform()], key=measure)
    tried = {tuple(best.items())}
    while moves > 0:
        fresh = [w for w in search.neighbours(best) if tuple(w.items()) not in tried]
        fresh.sort(key=program.loss)
        found = None
        for candidate in fresh[:moves]:
            moves -= 1
            tried.add(tuple(candidate.items()))
            if measure(candidate) < measure(best):
                found = candidate
                break
        if found is None:
            break
        best = found
    return best


class _Search:
    def __init__(self, program: Program, limits: Mapping[str, float]) -> None:
        self._program, self._limits = program, limits

    def uniform(self) -> list[Widths]:
        """One width for all weights that have it, the others as wide as can be; so activations."""
        losses = self._program.losses
        every: dict[str, set[int]] = {}
        for (kind, _), table in losses.items():
            every.setdefault(kind, set()).update(table)
        choices = []
        for combination in itertools.product(*map(sorted, every.values())):
            asked = dict(zip(every, combination, strict=True))
            choices.append(
                {
                    variable: asked[variable[0]] if asked[variable[0]] in table else max(table)
                    for variable, table in losses.items()
                }
            )
        return [choice for choice in choices if self._program.fits(choice, self._limits)]

    def neighbours(self, widths: Widths) -> Iterator[Widths]:
        """Choices with one width raised, and one other lowered as little as the limits ask for."""
        totals = {name: self._program.cost(widths, name) for name in self._limits}
        for variable, raised in self._steps(widths):
            if self._fits(widths, raised, totals):
                yield {**widths, **raised}
                continue
            for other in widths:
                lowered = ({**raised, other: bits} for bits in self._narrower(widths, other))
                fitting = (move for move in lowered if self._fits(widths, move, totals))
                if other != variable and (move := next(fitting, None)) is not None:
                    yield {**widths, **move}

    def _steps(self, widths: Widths) -> Iterator[tuple[Variable, Widths]]:
        """Every variable, and its next wider width."""
        for variable, table in self._program.losses.items():
            wider = [bits for bits in table if bits > widths[variable]]
            if wider:
                yield variable, {variable: min(wider)}

    def _narrower(self, widths: Widths, variable: Variable) -> list[int]:
        """The widest first."""
        table = self._program.losses[variable]
        return sorted((bits for bits in table if bits < widths[variable]), reverse=True)

    def _fits(self, widths: Widths, moved: Widths, totals: Mapping[str, float]) -> bool:
        """Whether a change is allowed and within the limits; what seems to is counted anew."""
        added = self._program.change(widths, moved)
        return (
            added is not None
            and all(totals[n] + added.get(n, 0) <= limit for n, limit in self._limits.items())
            and self._program.fits({**widths, **moved}, self._limits)
        )
