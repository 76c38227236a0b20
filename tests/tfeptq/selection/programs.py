"""Small programs, and every choice of one by enumeration."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st

from tfeptq.selection.factor import Factor, activations, constant, weights
from tfeptq.selection.program import Program

WIDTHS = (2, 3, 4, 8)


def separable(losses, costs, *, constants=None, order=None):
    """A program of layers' weights from plain tables.

    Args:
        losses: layer name -> width -> loss.
        costs: cost name -> layer name -> width -> cost.
        constants: cost name -> what comes on top.
        order: layer names.
    """
    table = {weights(name): entries for name, entries in losses.items()}
    factors = [
        Factor((weights(name),), {(bits,): {cost: value} for bits, value in entries.items()})
        for cost, layers in costs.items()
        for name, entries in layers.items()
    ]
    names = None if order is None else [weights(name) for name in order]
    return Program(table, [*factors, constant(constants or {})], names)


def choices(program):
    """Every choice that is allowed, by the definition of a program."""
    variables = list(program.losses)
    for combination in itertools.product(*program.losses.values()):
        widths = dict(zip(variables, combination, strict=True))
        has_all = all(
            tuple(widths[variable] for variable in factor.variables) in factor.costs
            for factor in program.factors
        )
        ordered = [widths[variable] for variable in program.order]
        if has_all and ordered == sorted(ordered):
            yield widths


def total(program, widths, name):
    """One cost, added up by hand."""
    return sum(
        factor.costs[tuple(widths[variable] for variable in factor.variables)].get(name, 0)
        for factor in program.factors
    )


def loss(program, widths):
    own = sum(program.losses[variable][bits] for variable, bits in widths.items())
    return own + total(program, widths, "loss")


def named(widths):
    """Name -> width, without the kind."""
    return {name: bits for (_, name), bits in widths.items()}


@st.composite
def programs(draw, *, is_separable=False):
    """Up to five variables and seven factors over none to three of them, gaps included."""
    names = [weights(name) for name in "abc"[: draw(st.integers(1, 3))]]
    names += [activations(name) for name in "xy"[: draw(st.integers(0, 2))]]
    widths = {
        name: draw(st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=3, unique=True))
        for name in names
    }
    numbers = st.integers(0, 40)
    losses = {name: {bits: draw(numbers) / 8 for bits in widths[name]} for name in names}
    factors = [constant({"bytes": draw(numbers)})]
    most = 1 if is_separable else 3
    for _ in range(draw(st.integers(1, 6))):
        count = min(draw(st.integers(1, most)), len(names))
        chosen = tuple(draw(st.permutations(names))[:count])
        combinations = list(itertools.product(*(widths[name] for name in chosen)))
        kept = [key for key in combinations if draw(st.integers(0, 9))]
        table = {
            key: {
                "bytes": draw(numbers),
                "operations": draw(numbers),
                # Terms of pairs may be negative.
                **({"loss": draw(numbers) / 8 - 2.0} if draw(st.booleans()) else {}),
            }
            for key in kept
        }
        factors.append(Factor(chosen, table))
    order = draw(st.permutations([name for name in names if name[0] == "weights"]))
    return Program(losses, factors, order if draw(st.booleans()) else None)
