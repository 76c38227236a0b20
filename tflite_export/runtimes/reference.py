"""The integer reference: runs operators and whole graphs in NumPy.

What a file means, independent of any runtime's kernels; every operator brings its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tflite_export.graph.kinds import is_known
from tflite_export.graph.structure import IntegerGraph, Operator, Tensor
from tflite_export.operators.operands import Operands

__all__ = ["run", "run_operator"]


def run_operator(
    operator: Operator, tensors: Mapping[str, Tensor], inputs: Sequence[np.ndarray]
) -> np.ndarray:
    """Output integers of one operator.

    Args:
        tensors: descriptions by name.
        inputs: integers of the operator's inputs in order, constants included; activations with
            any number of samples N.

    Raises:
        ValueError: unknown operator, or one that does not treat the samples one by one.
    """
    if not is_known(operator.kind):
        raise ValueError(f"operator {operator.kind} is not known to the integer reference")
    described = [tensors[name] for name in operator.inputs]
    operands = Operands(operator, described, tensors[operator.outputs[0]], inputs)
    values = operands.kind.kernel(operands)
    declared = operands.output.shape
    if values.shape[1:] != declared[1:]:
        raise ValueError(
            f"{operator.where}: the result has shape "
            f"{values.shape}, the graph declares {declared}; only the first dimension, the batch, "
            "may differ, and no operator may mix its samples"
        )
    return values


def run(
    graph: IntegerGraph, inputs: Mapping[str, np.ndarray] | Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Every activation of a graph, by tensor name.

    Args:
        inputs: integers (N, ...), by public input name or in order.

    Raises:
        ValueError: inputs that are not the graph's, or an operator that reads what none wrote.
    """
    values = _values_of_inputs(graph, inputs)
    constants = {name: t.data for name, t in graph.tensors.items() if t.data is not None}
    for operator in graph.operators:
        missing = [n for n in operator.inputs if n not in constants and n not in values]
        if missing:
            raise ValueError(f"{operator.where} reads {missing[0]!r}, which nothing has written")
        arrays = [constants[n] if n in constants else values[n] for n in operator.inputs]
        values[operator.outputs[0]] = run_operator(operator, graph.tensors, arrays)
    return values


def _values_of_inputs(
    graph: IntegerGraph, inputs: Mapping[str, np.ndarray] | Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    names = [public for public, _ in graph.inputs]
    if isinstance(inputs, Mapping):
        if set(inputs) != set(names):
            raise ValueError(f"received inputs {list(inputs)}, the graph takes {names}")
        inputs = [inputs[name] for name in names]
    if len(inputs) != len(names):
        raise ValueError(f"received {len(inputs)} inputs, the graph takes {len(names)}: {names}")
    values = {}
    for (public, name), array in zip(graph.inputs, inputs, strict=True):
        shape = graph.tensors[name].shape
        if array.shape[1:] != shape[1:] or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"input {public!r} takes integers (N, {', '.join(map(str, shape[1:]))}), "
                f"received {array.dtype} {array.shape}"
            )
        values[name] = array
    return values
