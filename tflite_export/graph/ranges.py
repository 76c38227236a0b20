"""Integers that the inputs of a graph may take, and those that are counted with."""

from __future__ import annotations

import numpy as np

from tflite_export.graph.kinds import kind_of, operand
from tflite_export.graph.operand_rules import INDEX
from tflite_export.graph.structure import IntegerGraph


def counted(graph: IntegerGraph) -> set[str]:
    """Tensors of numbers of places that an operator computes with: they have no scale."""
    return {
        name
        for operator in graph.operators
        if kind_of(operator.kind).counts and graph.tensors[operator.outputs[0]].dtype == INDEX
        for name in (*operator.inputs, *operator.outputs)
    }


def input_range(graph: IntegerGraph, name: str) -> tuple[int, int]:
    """Lowest and highest integer of an input that all operators take.

    Of its type; those that choose from a table; those that are not negative.
    """
    info = np.iinfo(graph.tensors[name].dtype)
    low, high = int(info.min), int(info.max)
    for operator in graph.operators:
        kind = kind_of(operator.kind)
        if name in (operand(operator, role) for role in kind.positive):
            low = max(low, graph.tensors[name].quantization.zero_point)
        for role, (table, axis) in kind.indexes.items():
            place = operand(operator, table)
            if operand(operator, role) == name and place is not None:
                low, high = 0, min(high, graph.tensors[place].shape[axis] - 1)
    return low, high
