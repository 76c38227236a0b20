"""A predicted choice improved by measurements: the second order ends where few bits begin.

Predictions add up terms of small errors. At 2 and 3 bits errors are not small, and a choice that
looks best can be worse than one width for all. So the prediction's optimum is measured against
those of other predictions and the uniform widths that fit as well, and the best of them is improved
by single steps: one variable a width up, and where that exceeds a bound, another one down.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence

from tfeptq.selection.factor import Variable, Widths
from tfeptq.selection.integer_program import LOSS
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
        untried = (w for w in search.neighbours(best) if tuple(w.items()) not in tried)
        found = None
        for candidate in itertools.islice(untried, moves):
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
        """Choices with one width raised, and one other lowered as little as the limits ask for.

        The least predicted loss comes first. There are up to as many as pairs of variables: what
        they cost is a sum of changes, and counted anew where one is asked for.
        """
        changes = _Changes(self._program, self._limits, widths)
        moves = sorted(self._moves(widths, changes), key=changes.loss)
        choices = ({**widths, **moved} for moved in moves)
        return (choice for choice in choices if self._program.fits(choice, self._limits))

    def _moves(self, widths: Widths, changes: _Changes) -> Iterator[Widths]:
        """New widths of one or two variables."""
        narrower = {variable: self._narrower(widths, variable) for variable in widths}
        for variable, table in self._program.losses.items():
            wider = [bits for bits in table if bits > widths[variable]]
            if not wider:
                continue
            raised = {variable: min(wider)}
            if changes.fit(raised):
                yield raised
                continue
            for other in widths:
                lowered = ({**raised, other: bits} for bits in narrower[other])
                fitting = (moved for moved in lowered if changes.fit(moved))
                if other != variable and (move := next(fitting, None)) is not None:
                    yield move

    def _narrower(self, widths: Widths, variable: Variable) -> list[int]:
        """The widest first."""
        table = self._program.losses[variable]
        return sorted((bits for bits in table if bits < widths[variable]), reverse=True)


#: What is added to the predicted loss, and to each cost that has a limit.
_Added = tuple[float, ...]


class _Changes:
    """What other widths of one or two variables add to a choice."""

    def __init__(self, program: Program, limits: Mapping[str, float], widths: Widths) -> None:
        self._program, self._widths, self._names = program, widths, tuple(limits)
        totals = program.costs(widths)
        self._left = [limit - totals.get(name, 0) for name, limit in limits.items()]
        self._alone = {
            (variable, bits): self._counted({variable: bits})
            for variable, table in program.losses.items()
            for bits in table
        }

    def fit(self, moved: Widths) -> bool:
        """Whether they are allowed and within the limits, but for rounding."""
        added = self._added(moved)
        if added is None or any(map(operator.gt, added[1:], self._left)):
            return False
        return not self._program.order or self._program.is_ordered({**self._widths, **moved})

    def loss(self, moved: Widths) -> float:
        """What those that are allowed add to the predicted loss."""
        added = self._added(moved)
        assert added is not None
        return added[0]

    def _added(self, moved: Widths) -> _Added | None:
        """A sum where no cost depends on both: counting costs of every pair would take long."""
        if self._program.decide_together(*moved):
            return self._counted(moved)
        total: _Added | None = None
        for each in moved.items():
            added = self._alone[each]
            if added is None:
                return None
            total = added if total is None else tuple(map(operator.add, total, added))
        return total

    def _counted(self, moved: Widths) -> _Added | None:
        added = self._program.change(self._widths, moved)
        if added is None:
            return None
        losses, widths = self._program.losses, self._widths
        own = sum(losses[each][bits] - losses[each][widths[each]] for each, bits in moved.items())
        return added.get(LOSS, 0) + own, *(added.get(name, 0) for name in self._names)
