"""Names are for people: tensors are told apart by what they are, and named last."""

from __future__ import annotations

from collections.abc import Container


def free_name(wanted: str, taken: Container[str]) -> str:
    """`wanted`, or the first of `wanted_1`, `wanted_2`, ... that is free."""
    name, index = wanted, 1
    while name in taken:
        name, index = f"{wanted}_{index}", index + 1
    return name


def unique_name(wanted: str, taken: set[str]) -> str:
    """The same; it is taken then."""
    name = free_name(wanted, taken)
    taken.add(name)
    return name
