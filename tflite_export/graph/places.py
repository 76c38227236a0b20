"""Tensors of numbers of places, which have no scale."""

from __future__ import annotations

from collections.abc import Iterator

from tflite_export.graph.kinds import kind_of
from tflite_export.graph.operand_rules import INDEX
from tflite_export.graph.structure import IntegerGraph, Operator


def counting(graph: IntegerGraph) -> Iterator[Operator]:
    """Operators that move numbers of places, or compute with them."""
    for operator in graph.operators:
        if kind_of(operator.kind).counts and graph.tensors[operator.outputs[0]].dtype == INDEX:
            yield operator


def counted(graph: IntegerGraph) -> set[str]:
    """Tensors of numbers of places that an operator moves, or computes with."""
    return {name for operator in counting(graph) for name in (*operator.inputs, *operator.outputs)}
