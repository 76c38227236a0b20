"""Operators that one runtime of a target cannot execute, while the one that it deploys can.

LiteRT's reference kernels lack some operators and compute some wrongly, and some kernels end their
process for some inputs. Files are proven without these operators there, from what they should have
given on, and with them by the other runtime.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from tflite_export.graph.kinds import weights_of
from tflite_export.graph.names import unique_name
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


def beside(graph: IntegerGraph, operators: Iterable[Operator]) -> IntegerGraph:
    """A graph without some operators: what they write are inputs behind its own, in order."""
    lost = [name for operator in operators for name in operator.outputs]
    kept = [operator for operator in graph.operators if not set(operator.outputs) & set(lost)]
    read = {name for operator in kept for name in operator.inputs}
    made = [name for operator in kept for name in operator.outputs]
    taken = {public for public, _ in graph.inputs}
    given = tuple((unique_name(name, taken), name) for name in lost if name in read)
    outputs = tuple((public, name) for public, name in graph.outputs if name in made)
    ends = tuple((name, name) for name in made if name not in read)
    names = {*read, *made, *(name for _, name in graph.inputs)}
    return dataclasses.replace(
        graph,
        tensors={name: tensor for name, tensor in graph.tensors.items() if name in names},
        operators=tuple(kept),
        inputs=(*graph.inputs, *given),
        outputs=outputs or ends,
    )
