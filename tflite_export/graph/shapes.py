"""The shape that every operator makes of its inputs' shapes, before anything is computed.

A graph whose declared shapes are these needs the memory that it declares, and no more. The rules
stand with the operators; what they have in common is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tflite_export.graph.case import Case
from tflite_export.graph.kinds import Shape


class _MismatchError(ValueError):
    """Shapes or attributes that do not fit each other; the message lacks the operator's name."""


def check_shapes(case: Case) -> None:
    """Compares the declared shape of an operator's output with what it makes of its inputs.

    Raises:
        ValueError: what does not fit, naming the operator and its layer.
    """
    operator, output = case.operator, case.output
    try:
        for tensor in (*case.inputs, output):
            require(all(size >= 1 for size in tensor.shape), f"{tensor.name!r} is {tensor.shape}")
        made = case.kind.shape(case)
        require(
            made == output.shape, f"makes {made} of its inputs, {output.name!r} is {output.shape}"
        )
    except (_MismatchError, TypeError) as error:
        raise ValueError(f"{operator.where}: its shapes do not fit: {error}") from error


def require(holds: bool, problem: str) -> None:
    """Raises what `check_shapes` catches, with `problem`, unless it holds."""
    if not holds:
        raise _MismatchError(problem)


def require_rank(shape: Shape, rank: int) -> None:
    require(len(shape) == rank, f"{shape} has {len(shape)} dimensions, need {rank}")


def integers(values: Any, count: int | None, what: str, *, least: int = 0) -> list[int]:
    """A list of `count` integers that are not below `least`."""
    found = [int(value) for value in values]
    require(count is None or len(found) == count, f"{what} is {tuple(values)}, need {count}")
    require(all(value >= least for value in found), f"{what} is {tuple(found)}")
    return found


def positive(attributes: Any, *names: str) -> list[int]:
    return [integers([attributes[name]], 1, name, least=1)[0] for name in names]


def axis_of(axis: int, rank: int) -> int:
    require(-rank <= axis < rank, f"axis {axis} of {rank}")
    return axis % rank


def same(case: Case) -> Shape:
    """The shape of the first input."""
    return case.shapes[0]


def broadcast(case: Case) -> Shape:
    try:
        return tuple(int(size) for size in np.broadcast_shapes(*case.shapes))
    except ValueError as error:
        left, right = case.shapes[:2]
        raise _MismatchError(f"{left} and {right} do not broadcast") from error


def image(case: Case, windows: Sequence[tuple[int, int]], channels: int) -> Shape:
    """Output of an operator with (size, stride) of windows in both directions."""
    batch, *source, _ = case.shapes[0]
    sizes = []
    for size, (window, stride) in zip(source, windows, strict=True):
        room = size if case.attributes["padding"] == "SAME" else size - window + 1
        require(room >= 1, f"a window of {window} in an image of {size}")
        sizes.append(-(-room // stride))
    return (batch, *sizes, channels)
