"""Operators that one runtime of a target cannot execute, while the one that it deploys can.

LiteRT's reference kernels lack some operators and compute some wrongly, and some kernels end their
process for some inputs. Files are proven without these operators there, and with them by the other
runtime.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from tflite_export.graph.kinds import weights_of
from tflite_export.graph.structure import IntegerGraph, Operator
from tflite_export.targets.forbidden import forbidden
from tflite_export.targets.wide_softmax import doomed


def left_out(graph: IntegerGraph, storage: Mapping[str, str], runtime: str) -> tuple[Operator, ...]:
    """Operators of a graph that a runtime has no right kernel for, or that end it for some inputs.

    Args:
        storage: tensor name -> container of weights that are stored narrower than int8.
    """
    deadly = doomed(graph, runtime)
    return tuple(
        operator
        for operator in graph.operators
        if operator in deadly or _is_forbidden(operator, graph, storage, runtime)
    )


def _is_forbidden(
    operator: Operator, graph: IntegerGraph, storage: Mapping[str, str], runtime: str
) -> bool:
    given, made = (graph.tensors[name] for name in (operator.inputs[0], operator.outputs[0]))
    weights = weights_of(operator, graph.tensors)
    row = forbidden(
        runtime,
        operator.kind,
        activation_dtype=given.dtype,
        container=None if weights is None else storage.get(weights.name, weights.dtype),
        per_channel=weights is not None and weights.quantization.per_channel,
        output_dtype=made.dtype,
        input_rank=len(given.shape),
    )
    return row is not None


def without(graph: IntegerGraph, operators: Iterable[Operator]) -> IntegerGraph:
    """The part of a graph that depends on none of some operators, with all that it makes."""
    lost = {name for operator in operators for name in operator.outputs}
    kept = []
    for operator in graph.operators:
        if lost.intersection((*operator.inputs, *operator.outputs)):
            lost.update(operator.outputs)
        else:
            kept.append(operator)
    read = {name for operator in kept for name in operator.inputs}
    ends = [name for operator in kept for name in operator.outputs if name not in read]
    names = {*read, *ends, *(name for _, name in graph.inputs)}
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name in names}
    outputs = tuple((name, name) for name in ends)
    return dataclasses.replace(graph, tensors=tensors, operators=tuple(kept), outputs=outputs)
