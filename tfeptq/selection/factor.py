"""What has a width, and tables of what widths cost together."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

#: What has a width, by kind and name: a layer's weights, or a group of activations.
Variable = tuple[str, str]
Widths = dict[Variable, int]
#: Variable -> candidate width -> what it adds.
Table = Mapping[Variable, Mapping[int, float]]


def weights(name: str) -> Variable:
    """The variable of a layer's weights."""
    return ("weights", name)


def activations(group: str) -> Variable:
    """The variable of a group of activations."""
    return ("activations", group)


@dataclasses.dataclass(frozen=True)
class Factor:
    """Costs that the widths of some variables decide together; of none, a constant.

    Attributes:
        variables: different ones.
        costs: combination of widths, in the order of `variables` -> cost name -> cost. What is not
            listed is forbidden.
        part: what the costs are of, for people; by default the first variable's name.
    """

    variables: tuple[Variable, ...]
    costs: Mapping[tuple[int, ...], Mapping[str, float]]
    part: str = ""

    def at(self, widths: Mapping[Variable, int]) -> Mapping[str, float] | None:
        """Cost name -> cost of a choice; None where it is forbidden."""
        return self.costs.get(tuple(widths[variable] for variable in self.variables))

    def cost(self, widths: Mapping[Variable, int], name: str) -> float:
        """One cost of a choice that is allowed."""
        return self.costs[tuple(widths[variable] for variable in self.variables)].get(name, 0)

    def given(self, fixed: Mapping[Variable, int]) -> Factor:
        """The table over the other variables, where some have one width for good."""
        free = [i for i, variable in enumerate(self.variables) if variable not in fixed]
        if len(free) == len(self.variables):
            return self
        wanted = [fixed.get(variable) for variable in self.variables]
        table = {
            tuple(combination[i] for i in free): costs
            for combination, costs in self.costs.items()
            if all(want in (None, bits) for want, bits in zip(wanted, combination, strict=True))
        }
        return Factor(tuple(self.variables[i] for i in free), table, self.named)

    @property
    def named(self) -> str:
        return self.part or (self.variables[0][1] if self.variables else "")


def constant(costs: Mapping[str, float], part: str = "") -> Factor:
    """Costs that no width decides."""
    return Factor((), {(): costs}, part)


def tabled(
    variables: Sequence[Variable],
    widths: Mapping[Variable, Sequence[int]],
    costs: Callable[..., Mapping[str, float] | None],
    part: str = "",
) -> Factor:
    """A factor of every combination of some variables' candidates.

    Args:
        widths: variable -> candidates.
        costs: one width a variable, in their order -> costs; None where that is forbidden.
    """
    combinations = itertools.product(*(widths[variable] for variable in variables))
    found = ((combination, costs(*combination)) for combination in combinations)
    return Factor(tuple(variables), {key: c for key, c in found if c is not None}, part)
