"""Integers that the inputs of a graph may take."""

from __future__ import annotations

import numpy as np

from tflite_export.graph.kinds import kind_of, operand
from tflite_export.graph.structure import IntegerGraph


def input_range(graph: IntegerGraph, name: str) -> tuple[int, int]:
    """Lowest and highest integer of an input: of its type, or those that choose from a table."""
    info = np.iinfo(graph.tensors[name].dtype)
    low, high = int(info.min), int(info.max)
    for operator in graph.operators:
        for role, (table, axis) in kind_of(operator.kind).indexes.items():
            place = operand(operator, table)
            if operand(operator, role) == name and place is not None:
                low, high = 0, min(high, graph.tensors[place].shape[axis] - 1)
    return low, high
