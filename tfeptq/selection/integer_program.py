"""Least loss where several costs are bound, or several widths decide one: exact, by HiGHS.

One binary column a candidate, one of them chosen a variable. What one variable decides is a
coefficient of its columns. A factor of several has one continuous column a combination, whose
marginals are the binary columns: with those whole, it is their product. The last column is what the
largest of several costs is at most.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize, sparse

from tfeptq.selection.factor import Factor, Table, Variable, Widths

#: What a program makes small. Factors may add to it: terms of pairs.
LOSS = "loss"


class IntegerProgram:
    """The columns and equations of one selection.

    Args:
        losses: variable -> width -> predicted loss.
        factors: of all costs.
        order: variables whose widths do not fall from one to the next.
    """

    def __init__(self, losses: Table, factors: Sequence[Factor], order: Sequence[Variable]) -> None:
        self._candidates = [(variable, bits) for variable in losses for bits in losses[variable]]
        self._columns = {candidate: i for i, candidate in enumerate(self._candidates)}
        self._losses = losses
        single = {v: next(iter(table)) for v, table in losses.items() if len(table) == 1}
        reduced = [factor.given(single) for factor in factors]
        self._constants = [factor for factor in reduced if not factor.variables]
        self._own = [factor for factor in reduced if len(factor.variables) == 1]
        self._shared = [factor for factor in reduced if len(factor.variables) > 1]
        self._combinations = [(factor, key) for factor in self._shared for key in factor.costs]
        self._size = len(self._columns) + len(self._combinations) + 1
        self._equations = [self._one_each(), *self._marginals(), *self._ordered(order)]

    def best(self, limits: Mapping[str, float]) -> Widths | None:
        """The choice of least loss under every limit; None where nothing meets them."""
        objective = self._row(LOSS)
        for (variable, bits), column in self._columns.items():
            objective[column] += self._losses[variable][bits]
        # HiGHS works to absolute tolerances: bring every row to the order of one.
        objective /= float(np.abs(objective).max(initial=0.0)) or 1.0
        rows, bounds = [], []
        for name, limit in limits.items():
            left = limit - self._constant(name)
            scale = left if left > 0.0 else 1.0
            rows.append(self._row(name) / scale)
            bounds.append(left / scale)
        return self._solved(objective, np.array(rows), np.array(bounds))

    def least(self, names: Sequence[str]) -> Widths | None:
        """The choice whose largest cost among `names` is least; None where none is allowed."""
        rows = np.array([self._row(name) for name in names])
        constants = np.array([self._constant(name) for name in names])
        scale = max(float(rows.max(initial=0.0)), float(constants.max())) or 1.0
        rows, objective = rows / scale, np.zeros(self._size)
        rows[:, -1], objective[-1] = -1.0, 1.0
        return self._solved(objective, rows, -constants / scale)

    def widest(self) -> Widths | None:
        """The choice of most bits; None where none is allowed."""
        objective = np.zeros(self._size)
        objective[: len(self._candidates)] = [-bits for _, bits in self._candidates]
        return self._solved(objective, np.zeros((0, self._size)), np.zeros(0))

    def _constant(self, name: str) -> float:
        return sum(factor.costs[()].get(name, 0.0) for factor in self._constants if factor.costs)

    def _row(self, name: str) -> np.ndarray:
        row = np.zeros(self._size)
        for factor in self._own:
            for (bits,), costs in factor.costs.items():
                row[self._columns[factor.variables[0], bits]] += costs.get(name, 0.0)
        for index, (factor, key) in enumerate(self._combinations):
            row[len(self._columns) + index] = factor.costs[key].get(name, 0.0)
        return row

    def _one_each(self) -> optimize.LinearConstraint:
        """One width a variable."""
        variables = list(self._losses)
        rows = [variables.index(variable) for variable, _ in self._candidates]
        matrix = sparse.csr_array(
            (np.ones(len(rows)), (rows, np.arange(len(rows)))), shape=(len(variables), self._size)
        )
        return optimize.LinearConstraint(matrix, 1.0, 1.0)

    def _marginals(self) -> list[optimize.LinearConstraint]:
        """The combinations of a factor with a width add up to the column of that width."""
        entries: list[tuple[int, int, float]] = []
        row, first = 0, len(self._columns)
        for factor in self._shared:
            keys = list(enumerate(factor.costs, first))
            first += len(keys)
            for position, variable in enumerate(factor.variables):
                for bits in self._losses[variable]:
                    entries.append((row, self._columns[variable, bits], -1.0))
                    entries += [(row, c, 1.0) for c, key in keys if key[position] == bits]
                    row += 1
        if not entries:
            return []
        rows, columns, values = zip(*entries, strict=True)
        matrix = sparse.csr_array((values, (rows, columns)), shape=(row, self._size))
        return [optimize.LinearConstraint(matrix, 0.0, 0.0)]

    def _ordered(self, order: Sequence[Variable]) -> list[optimize.LinearConstraint]:
        constraints = []
        for lower, higher in itertools.pairwise(order):
            row = np.zeros(self._size)
            for variable, sign in ((lower, -1.0), (higher, 1.0)):
                for bits in self._losses[variable]:
                    row[self._columns[variable, bits]] = sign * bits
            constraints.append(optimize.LinearConstraint(row[None], 0.0, np.inf))
        return constraints

    def _is_forbidden(self, candidate: tuple[Variable, int]) -> bool:
        variable, bits = candidate
        return any(f.variables == (variable,) and (bits,) not in f.costs for f in self._own)

    def _solved(self, objective: np.ndarray, rows: np.ndarray, bounds: np.ndarray) -> Widths | None:
        """Minimises `objective` under rows <= bounds."""
        if not all(factor.costs for factor in self._constants):
            return None
        constraints = list(self._equations)
        if len(bounds):
            constraints.append(optimize.LinearConstraint(sparse.csr_array(rows), -np.inf, bounds))
        lower, upper, is_whole = np.zeros(self._size), np.ones(self._size), np.zeros(self._size)
        is_whole[: len(self._columns)] = 1
        upper[: len(self._columns)] = [not self._is_forbidden(c) for c in self._candidates]
        lower[-1], upper[-1] = -np.inf, np.inf
        result = optimize.milp(
            objective,
            integrality=is_whole,
            bounds=optimize.Bounds(lower, upper),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
        if result.x is None:
            return None
        return {v: bits for (v, bits), column in self._columns.items() if result.x[column] > 0.5}
