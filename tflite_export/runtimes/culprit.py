"""Which operator of a graph a runtime refuses, or dies of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tflite_export.file.writer import write
from tflite_export.graph.structure import IntegerGraph, Operator
from tflite_export.runtimes.sessions import open_session


def culprit(
    graph: IntegerGraph, storage: Mapping[str, str], runtime: str, inputs: Sequence[np.ndarray]
) -> tuple[Operator, ValueError] | None:
    """The last operator of the shortest beginning of a graph that fails, and how it fails.

    Found by bisection: a runtime that fails at an operator fails whatever follows. None where the
    whole graph does not fail again.
    """
    works, fails = 0, len(graph.operators)
    error = _failure(graph, storage, runtime, inputs)
    if error is None:
        return None
    while fails - works > 1:
        middle = (works + fails) // 2
        found = _failure(beginning(graph, middle), storage, runtime, inputs)
        if found is None:
            works = middle
        else:
            fails, error = middle, found
    return graph.operators[fails - 1], error


def beginning(graph: IntegerGraph, count: int) -> IntegerGraph:
    """The first operators of a graph, with what none of them reads as outputs."""
    operators = graph.operators[:count]
    read = {name for operator in operators for name in operator.inputs}
    made = [name for operator in operators for name in operator.outputs if name not in read]
    outputs = tuple((name, name) for name in made)
    return dataclasses.replace(graph, operators=operators, outputs=outputs)


def _failure(
    graph: IntegerGraph, storage: Mapping[str, str], runtime: str, inputs: Sequence[np.ndarray]
) -> ValueError | None:
    try:
        open_session(write(graph, storage), runtime)(inputs)
    except ValueError as error:
        return error
    return None
