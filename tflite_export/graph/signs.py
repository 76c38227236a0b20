"""Which tensors of a graph cannot hold negative numbers, whatever its inputs are."""

from __future__ import annotations

from tflite_export.graph.activations import RELUS
from tflite_export.graph.case import Case
from tflite_export.graph.codes import lowest
from tflite_export.graph.kinds import clamp_of, kind_of
from tflite_export.graph.structure import IntegerGraph


def is_positive(graph: IntegerGraph, name: str) -> bool:
    """Whether no integer of a tensor is below its zero point.

    By its type and codes, by a ReLU, or because it holds integers of tensors that are positive.
    """
    tensor = graph.tensors[name]
    if lowest(tensor) >= tensor.quantization.zero_point:
        return True
    makers = (operator for operator in graph.operators if name in operator.outputs)
    maker = next(makers, None)
    if maker is None:
        return False
    moved = Case.of(maker, graph.tensors).activations
    moves = kind_of(maker.kind).ties and all(is_positive(graph, each.name) for each in moved)
    return clamp_of(maker) in RELUS or moves
