"""Names are for people: tensors are told apart by what they are, and named last."""

from __future__ import annotations


def unique_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, or the first of `wanted_1`, `wanted_2`, ... that is free; it is taken then."""
    name, index = wanted, 1
    while name in taken:
        name, index = f"{wanted}_{index}", index + 1
    taken.add(name)
    return name
