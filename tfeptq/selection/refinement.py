"""A predicted choice improved by measurements: the second order ends where few bits begin.

Predictions add up terms of small errors. At 2 and 3 bits errors are not small, and a choice that
looks best can be worse than one width for all. So the prediction's optimum is measured against
those of other predictions and the uniform widths that fit as well, and the best of them is improved
by single steps: one layer a width up, and where that exceeds a bound, another one down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from tfeptq.selection.frontier import Table

Widths = dict[str, int]


def refined(
    starts: Sequence[Widths],
    losses: Table,
    costs: Mapping[str, Table],
    limits: Mapping[str, float],
    measure: Callable[[Widths], float],
    *,
    moves: int,
) -> Widths:
    """The best choice measured, never worse than any of `starts` or a uniform width that fits.

    Args:
        starts: layer name -> width, within the limits.
        losses: layer name -> width -> predicted loss; promising moves are measured first.
        costs, limits: cost name -> layer name -> width -> cost, and what it may add up to.
        measure: loss of a choice.
        moves: most measurements of changed choices.
    """
    search = _Search(losses, costs, limits)
    best = min([*starts, *search.uniform(starts[0])], key=measure)
    tried = {tuple(best.items())}
    while moves > 0:
        fresh = [w for w in search.neighbours(best) if tuple(w.items()) not in tried]
        fresh.sort(key=search.predicted)
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
    def __init__(
        self, losses: Table, costs: Mapping[str, Table], limits: Mapping[str, float]
    ) -> None:
        self._losses, self._costs, self._limits = losses, costs, limits

    def predicted(self, widths: Widths) -> float:
        return sum(self._losses[name][bits] for name, bits in widths.items())

    def uniform(self, widths: Widths) -> list[Widths]:
        """One width for all layers that have it, the others as wide as they can be."""
        every = {bits for table in self._losses.values() for bits in table}
        choices = [
            {
                name: bits if bits in self._losses[name] else max(self._losses[name])
                for name in widths
            }
            for bits in sorted(every)
        ]
        return [choice for choice in choices if self._fits(choice)]

    def neighbours(self, widths: Widths) -> Iterator[Widths]:
        """Choices with one layer raised, and one other lowered as little as the limits ask for."""
        for name in widths:
            wider = [bits for bits in self._losses[name] if bits > widths[name]]
            if not wider:
                continue
            raised = {**widths, name: min(wider)}
            if self._fits(raised):
                yield raised
                continue
            for other in widths:
                if other == name:
                    continue
                narrower = [bits for bits in self._losses[other] if bits < widths[other]]
                lowered = ({**raised, other: bits} for bits in sorted(narrower, reverse=True))
                fitting = next((choice for choice in lowered if self._fits(choice)), None)
                if fitting is not None:
                    yield fitting

    def _fits(self, widths: Widths) -> bool:
        return all(
            sum(self._costs[cost][name][bits] for name, bits in widths.items()) <= limit
            for cost, limit in self._limits.items()
        )
