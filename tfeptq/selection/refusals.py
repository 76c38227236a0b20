"""What to say of a budget that nothing meets: the smallest possible, and what it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tfeptq.selection.factor import Factor, Widths
from tfeptq.selection.program import Program

#: Parts that a sentence names.
_PARTS = 3


def unmet(
    program: Program, cost: str, names: Sequence[str], limit: float, least: Widths, exact: float
) -> ValueError:
    """The refusal of a bound that no choice meets.

    Args:
        cost: as the budget calls it.
        names: the program's costs whose largest it is.
        least: the cheapest choice.
        exact: what it costs, where the program underestimates that.
    """
    smallest = max(program.largest(least, names), exact)
    name = max(names, key=program.costs(least).__getitem__)
    parts = _largest_parts(program, least, name)
    if name not in program.decided:
        return ValueError(
            f"budget {cost}={limit:g} cannot be met: {smallest:g} bytes of activations are alive "
            f"at once, whatever the widths of the weights, the largest of them {parts}; "
            "activation_bits and the size of the inputs decide that"
        )
    return ValueError(
        f"budget {cost}={limit:g} cannot be met: the smallest possible is {smallest:g}"
        f"{_settled(program, least, name)}; the largest parts are {parts}. Allow narrower "
        f"{_settings(program)}, or a larger budget"
    )


def contradictory(limits: Mapping[str, float]) -> ValueError:
    """The refusal of several bounds of which each alone can be met."""
    bounds = ", ".join(f"{name}={limit:g}" for name, limit in limits.items())
    return ValueError(
        f"no choice of widths meets the budget {bounds} at once, though each bound alone can be met"
    )


def _settled(program: Program, widths: Widths, name: str) -> str:
    """How much of a cost nothing can change."""
    fixed, constant = 0.0, 0.0
    for factor in program.factors:
        if not factor.variables:
            constant += factor.cost(widths, name)
        elif all(len(program.losses[variable]) == 1 for variable in factor.variables):
            fixed += factor.cost(widths, name)
    others = f" and {constant:g} in operators without weights" if constant else ""
    return (
        f", of which {fixed:g} in layers with one candidate only (first_last_bits, or what the "
        f"target stores){others}"
    )


def _largest_parts(program: Program, widths: Widths, name: str) -> str:
    named = [factor for factor in program.factors if factor.named]
    parts = sorted(named, key=lambda factor: -factor.cost(widths, name))[:_PARTS]
    return ", ".join(_part(f, widths, name) for f in parts if f.cost(widths, name) > 0)


def _part(factor: Factor, widths: Widths, name: str) -> str:
    size = f"{factor.named} {factor.cost(widths, name):g}"
    return f"{size} at {widths[factor.variables[0]]} bits" if factor.variables else size


def _settings(program: Program) -> str:
    has_activations = any(kind == "activations" for kind, _ in program.losses)
    return f"weight_bits{', activation_bits' if has_activations else ''} or first_last_bits"
