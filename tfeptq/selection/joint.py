"""Exact choice where costs are decided by several widths at once (HiGHS).

A layer's bit operations are a product of the widths of its weights and its inputs, and a tensor
occupies memory as long as its readers need it. Each such cost is a table over the widths of a few
variables, a `Factor`. The mixed-integer program has one binary variable a width, and one continuous
variable a combination of each factor, whose marginals are the binary ones: with those whole, it is
their product.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize, sparse

#: What has a width, by kind and name: a layer's weights, or a group of activations.
Variable = tuple[str, str]
Widths = dict[Variable, int]


@dataclasses.dataclass(frozen=True)
class Factor:
    """Costs that depend on the widths of some variables together.

    Attributes:
        variables: different ones.
        costs: combination of widths, in the order of `variables` -> cost name -> cost. What is not
            listed is forbidden.
    """

    variables: tuple[Variable, ...]
    costs: Mapping[tuple[int, ...], Mapping[str, float]]


class Program:
    """Least total loss under bounds of costs that factors add up.

    Args:
        losses: variable -> width -> predicted loss.
        factors: of all costs.
    """

    def __init__(
        self, losses: Mapping[Variable, Mapping[int, float]], factors: Sequence[Factor]
    ) -> None:
        self._losses, self._factors = losses, factors
        self._columns = {
            (variable, bits): index
            for index, (variable, bits) in enumerate(
                (variable, bits) for variable, table in losses.items() for bits in table
            )
        }
        self._combinations = [
            (factor, combination) for factor in factors for combination in factor.costs
        ]
        self._size = len(self._columns) + len(self._combinations)
        self._structure = self._consistent()

    def cost(self, widths: Mapping[Variable, int], name: str) -> float:
        """One cost of one choice."""
        return sum(
            factor.costs[tuple(widths[variable] for variable in factor.variables)].get(name, 0.0)
            for factor in self._factors
        )

    def parts(self, widths: Mapping[Variable, int], name: str) -> list[tuple[Variable, float]]:
        """What each factor adds to a cost, by its first variable."""
        return [
            (
                factor.variables[0],
                factor.costs[tuple(widths[variable] for variable in factor.variables)].get(name, 0),
            )
            for factor in self._factors
        ]

    def loss(self, widths: Mapping[Variable, int]) -> float:
        return sum(self._losses[variable][bits] for variable, bits in widths.items())

    def best(self, limits: Mapping[str, float]) -> Widths | None:
        """The choice of least loss under every limit; None where nothing meets them."""
        objective = np.zeros(self._size)
        for (variable, bits), column in self._columns.items():
            objective[column] = self._losses[variable][bits]
        # HiGHS works to absolute tolerances: bring every row to the order of one.
        objective /= max(float(np.abs(objective).max()), 1e-300)
        rows = [self._row(name) / limit for name, limit in limits.items()]
        return self._solved(objective, np.array(rows), np.ones(len(rows)))

    def least(self, names: Sequence[str]) -> Widths:
        """The choice whose largest cost among `names` is least.

        Raises:
            ValueError: the factors allow no choice at all.
        """
        rows = np.array([self._row(name) for name in names])
        scale = max(float(rows.max(initial=0.0)), 1e-300)
        # One more variable: an upper bound of all rows, which is minimised.
        bounded = np.hstack([rows / scale, -np.ones((len(rows), 1))])
        objective = np.zeros(self._size + 1)
        objective[-1] = 1.0
        found = self._solved(objective, bounded, np.zeros(len(rows)))
        if found is None:
            raise ValueError("no combination of the candidate widths can be executed")
        return found

    def _row(self, name: str) -> np.ndarray:
        row = np.zeros(self._size)
        for index, (factor, combination) in enumerate(self._combinations):
            row[len(self._columns) + index] = factor.costs[combination].get(name, 0.0)
        return row

    def _consistent(self) -> tuple[sparse.csr_array, np.ndarray]:
        """Equations: one width a variable; combinations of a factor add up to each width."""
        entries: list[tuple[int, int, float]] = []
        right: list[float] = []
        for variable, table in self._losses.items():
            entries += [(len(right), self._columns[variable, bits], 1.0) for bits in table]
            right.append(1.0)
        first = len(self._columns)
        for factor in self._factors:
            columns = dict(zip(factor.costs, range(first, first + len(factor.costs)), strict=True))
            first += len(factor.costs)
            for position, variable in enumerate(factor.variables):
                for bits in self._losses[variable]:
                    row = len(right)
                    entries.append((row, self._columns[variable, bits], -1.0))
                    entries += [
                        (row, column, 1.0)
                        for combination, column in columns.items()
                        if combination[position] == bits
                    ]
                    right.append(0.0)
        rows, columns_, values = zip(*entries, strict=True)
        shape = (len(right), self._size)
        return sparse.csr_array((values, (rows, columns_)), shape=shape), np.array(right)

    def _solved(self, objective: np.ndarray, rows: np.ndarray, limits: np.ndarray) -> Widths | None:
        """Minimises `objective` (of all columns, and more) under rows <= limits."""
        matrix, right = self._structure
        extra = len(objective) - self._size
        padded = sparse.hstack([matrix, sparse.csr_array((len(right), extra))]).tocsr()
        constraints = [optimize.LinearConstraint(padded, right, right)]
        if len(limits):
            constraints.append(optimize.LinearConstraint(sparse.csr_array(rows), -np.inf, limits))
        is_whole = np.zeros(len(objective))
        is_whole[: len(self._columns)] = 1
        upper = np.ones(len(objective))
        upper[self._size :] = np.inf
        result = optimize.milp(
            objective,
            integrality=is_whole,
            bounds=optimize.Bounds(0, upper),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
        if result.x is None:
            return None
        return {
            variable: bits
            for (variable, bits), column in self._columns.items()
            if result.x[column] > 0.5
        }
