"""One program of all widths: least predicted loss under bounds of costs that add up.

Where every factor depends on one free variable, dynamic programming gives the exact frontier of one
cost in one pass. A layer's bit operations are a product of the widths of its weights and of its
input, and a tensor occupies memory as long as its readers need it: there, and where several costs
are bound at once, HiGHS solves the program, exactly as well.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from tfeptq.selection.factor import Factor, Table, Variable, Widths
from tfeptq.selection.frontier import Frontier, pareto
from tfeptq.selection.integer_program import LOSS, IntegerProgram

#: Points of a frontier without dynamic programming: an optimum each, at bounds in equal steps.
POINTS = 33
#: HiGHS may exceed a bound by this part of it: then it is asked again with less, so many times.
_TOLERANCE, _ATTEMPTS = 1e-6, 3


@dataclasses.dataclass(frozen=True)
class _Separated:
    """A program whose losses and costs add up over variables."""

    losses: Table
    costs: Mapping[str, Table]
    constants: Mapping[str, float]


class Program:
    """Choices of one width a variable, their losses and costs.

    Args:
        losses: variable -> candidate width -> predicted loss.
        factors: of all costs. What they call `LOSS` is added to the loss: terms of pairs.
        order: variables whose widths must not fall from one to the next, as those of layers by
            rising average trace in HAWQ-V2's rule. Those with one candidate are bound by nothing.
    """

    def __init__(
        self, losses: Table, factors: Sequence[Factor], order: Sequence[Variable] | None = None
    ) -> None:
        self.losses, self.factors = losses, tuple(factors)
        self.order = tuple(v for v in order or () if len(losses[v]) > 1)
        self._frontiers: dict[tuple[str, ...], Frontier] = {}
        self._touching: dict[Variable, list[Factor]] = {variable: [] for variable in losses}
        for factor in factors:
            for variable in factor.variables:
                self._touching[variable].append(factor)

    def with_losses(self, losses: Table) -> Program:
        """The same choices and costs with other predictions."""
        return Program(losses, self.factors, self.order)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """All costs, whether widths decide them or not."""
        tables = (costs for factor in self.factors for costs in factor.costs.values())
        return tuple(dict.fromkeys(name for costs in tables for name in costs if name != LOSS))

    @functools.cached_property
    def _pairs(self) -> list[Factor]:
        """The factors that add to the loss."""
        return [f for f in self.factors if any(LOSS in costs for costs in f.costs.values())]

    @functools.cached_property
    def decided(self) -> frozenset[str]:
        """The costs that widths decide."""
        tables = (costs for f in self.factors if f.variables for costs in f.costs.values())
        return frozenset(name for costs in tables for name in costs)

    def is_allowed(self, widths: Mapping[Variable, int]) -> bool:
        """Whether every factor has the combination, and the order holds."""
        has_all = all(factor.at(widths) is not None for factor in self.factors)
        return has_all and self.is_ordered(widths)

    def is_ordered(self, widths: Mapping[Variable, int]) -> bool:
        """Whether widths do not fall along the order."""
        pairs = itertools.pairwise(self.order)
        return all(widths[lower] <= widths[higher] for lower, higher in pairs)

    def decide_together(self, *variables: Variable) -> bool:
        """Whether a factor depends on several of them."""
        return any(b in self._beside[a] for a, b in itertools.combinations(variables, 2))

    @functools.cached_property
    def _beside(self) -> dict[Variable, frozenset[Variable]]:
        """The variables of every variable's factors."""
        found = self._touching.items()
        return {v: frozenset(w for f in factors for w in f.variables) for v, factors in found}

    def change(self, widths: Mapping[Variable, int], moved: Widths) -> dict[str, float] | None:
        """Cost name -> what other widths of some variables add to it; None if a factor forbids it.

        Args:
            widths: a choice that is allowed.
        """
        added: dict[str, float] = {}
        for factor in {id(f): f for variable in moved for f in self._touching[variable]}.values():
            changed = {v: moved.get(v, widths[v]) for v in factor.variables}
            old, new = factor.at(widths), factor.at(changed)
            if old is None or new is None:
                return None
            for name, cost in new.items():
                added[name] = added.get(name, 0) + cost
            for name, cost in old.items():
                added[name] = added.get(name, 0) - cost
        return added

    def cost(self, widths: Mapping[Variable, int], name: str) -> float:
        """One cost of one choice."""
        return sum(factor.cost(widths, name) for factor in self.factors)

    def costs(self, widths: Mapping[Variable, int]) -> dict[str, float]:
        """All costs of one choice that is allowed."""
        totals: dict[str, float] = dict.fromkeys(self.names, 0)
        for factor in self.factors:
            for name, cost in (factor.at(widths) or {}).items():
                totals[name] = totals.get(name, 0) + cost
        return totals

    def loss(self, widths: Mapping[Variable, int]) -> float:
        """Predicted loss of one choice."""
        own = sum(self.losses[variable][bits] for variable, bits in widths.items())
        return own + sum(factor.cost(widths, LOSS) for factor in self._pairs)

    def fits(self, widths: Mapping[Variable, int], limits: Mapping[str, float]) -> bool:
        """Whether a choice is allowed and within every limit."""
        if not self.is_allowed(widths):
            return False
        totals = self.costs(widths)
        return all(totals.get(name, 0) <= limit for name, limit in limits.items())

    def best(self, limits: Mapping[str, float]) -> Widths | None:
        """The choice of least loss under every limit; None where nothing meets them.

        Args:
            limits: cost name -> bound.
        """
        free = {name: limit for name, limit in limits.items() if name in self.decided}
        fixed = {name: limit for name, limit in limits.items() if name not in self.decided}
        if any(self._constant(name) > limit for name, limit in fixed.items()):
            return None
        if len(free) > 1 or (found := self._separated(free)) is None:
            return self._solved(free)
        frontier = self._frontier(found, next(iter(free), None))
        point = frontier.best_within(
            next((limit - found.constants[name] for name, limit in free.items()), 0.0)
        )
        return None if point is None else self._named(frontier.widths(point))

    def least(self, names: Sequence[str]) -> Widths:
        """The choice whose largest cost among `names` is least.

        Raises:
            ValueError: the factors and the order allow no choice at all.
        """
        found = self._separated(names) if len(names) == 1 else None
        if found is None:
            return self._possible(self._integer.least(names))
        frontier = self._frontier(found, names[0])
        return self._possible(self._named(frontier.widths(0)) if len(frontier) else None)

    def widest(self) -> Widths:
        """The choice of most bits.

        Raises:
            ValueError: see `least`.
        """
        widths = {variable: max(table) for variable, table in self.losses.items()}
        return widths if self.is_allowed(widths) else self._possible(self._integer.widest())

    def pareto(self, names: Sequence[str]) -> Frontier:
        """Undominated choices of loss against the largest of some costs, cheapest first.

        All of them where dynamic programming finds them; otherwise the optima at `POINTS` bounds.
        It is computed once: a search that runs ahead of its evaluations asks again and again.
        """
        key = tuple(names)
        if key not in self._frontiers:
            self._frontiers[key] = self._pareto(key)
        return self._frontiers[key]

    def _pareto(self, names: Sequence[str]) -> Frontier:
        found = self._separated(names) if len(names) == 1 else None
        if found is not None:
            frontier = self._frontier(found, names[0])
            return Frontier(
                frontier.costs + found.constants[names[0]],
                frontier.losses,
                lambda point: self._named(frontier.widths(point)),
            )
        least, free = self.largest(self.least(names), names), self.best({})
        assert free is not None
        chosen: list[tuple[float, float, Widths]] = []
        for limit in np.linspace(least, self.largest(free, names), POINTS):
            # What is exactly possible must not fail by rounding.
            widths = self.best(dict.fromkeys(names, limit * (1 + 1e-9)))
            if widths is not None and (not chosen or self.loss(widths) < chosen[-1][1]):
                chosen.append((self.largest(widths, names), self.loss(widths), widths))
        costs, losses, choices = zip(*chosen, strict=True)
        return Frontier(np.array(costs), np.array(losses), choices.__getitem__)

    def largest(self, widths: Mapping[Variable, int], names: Sequence[str]) -> float:
        """The largest of some costs of one choice."""
        totals = self.costs(widths)
        return max(totals.get(name, 0) for name in names)

    @functools.cached_property
    def _integer(self) -> IntegerProgram:
        return IntegerProgram(self.losses, self.factors, self.order)

    def _solved(self, limits: Mapping[str, float]) -> Widths | None:
        bounds = dict(limits)
        for _ in range(_ATTEMPTS):
            widths = self._integer.best(bounds)
            if widths is None:
                return None
            totals = self.costs(widths)
            excess = {name: totals[name] - limit for name, limit in limits.items()}
            if all(more <= 0.0 for more in excess.values()):
                return widths
            for name, more in excess.items():
                if more > 0.0:
                    bounds[name] -= more + 2.0 * _TOLERANCE * abs(limits[name])
        return None

    @staticmethod
    def _possible(widths: Widths | None) -> Widths:
        if widths is None:
            raise ValueError(
                "no combination of the candidate widths can be executed; allow wider weight_bits "
                "or 8-bit activations"
            )
        return widths

    def _constant(self, name: str) -> float:
        constants = (factor for factor in self.factors if not factor.variables)
        return sum(factor.costs.get((), {}).get(name, 0) for factor in constants)

    def _named(self, widths: Widths) -> Widths:
        """In the order of the variables, whatever order they were decided in."""
        return {variable: widths[variable] for variable in self.losses}

    def _separated(self, names: Sequence[str] | Mapping[str, float]) -> _Separated | None:
        """The program by variables; None where the widths of several decide something together."""
        single = {v: next(iter(table)) for v, table in self.losses.items() if len(table) == 1}
        losses = {variable: dict(table) for variable, table in self.losses.items()}
        costs = {name: {v: dict.fromkeys(t, 0.0) for v, t in losses.items()} for name in names}
        constants: dict[str, float] = dict.fromkeys(names, 0.0)
        for factor in self.factors:
            reduced = factor.given(single)
            if len(reduced.variables) > 1 or not reduced.costs:
                return None
            if not reduced.variables and not factor.variables:
                for name in names:
                    constants[name] += reduced.costs[()].get(name, 0)
                continue
            # What pinned variables alone decide is kept with the first of them.
            owner = (reduced.variables or factor.variables)[0]
            for bits in self.losses[owner]:
                found = reduced.costs.get((bits,) if reduced.variables else ())
                if found is None:
                    losses[owner].pop(bits, None)
                    continue
                for name in names:
                    costs[name][owner][bits] += found.get(name, 0)
                if bits in losses[owner]:
                    losses[owner][bits] += found.get(LOSS, 0)
        return _Separated(losses, costs, constants) if all(losses.values()) else None

    def _frontier(self, found: _Separated, name: str | None) -> Frontier:
        zeros = {variable: dict.fromkeys(table, 0.0) for variable, table in found.losses.items()}
        table = zeros if name is None else found.costs[name]
        return pareto(found.losses, table, order=self.order or None)
