"""Runs operators and whole graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tflite_export.graph.structure import IntegerGraph, Operator, Tensor
from tflite_export.operators import (
    curves,
    elementwise,
    movement,
    nonlinear,
    pooling,
    resize,
    softmax,
    weighted,
)
from tflite_export.operators.operands import Operands

_KERNELS: dict[str, Callable[[Operands], np.ndarray]] = {
    "CONV_2D": weighted.conv_2d,
    "DEPTHWISE_CONV_2D": weighted.depthwise_conv_2d,
    "FULLY_CONNECTED": weighted.fully_connected,
    "ADD": elementwise.add,
    "SUB": elementwise.subtract,
    "MUL": elementwise.multiply,
    "MAXIMUM": elementwise.maximum,
    "MINIMUM": elementwise.minimum,
    "CONCATENATION": movement.concatenation,
    "MAX_POOL_2D": pooling.max_pool_2d,
    "AVERAGE_POOL_2D": pooling.average_pool_2d,
    "MEAN": pooling.mean,
    "RESHAPE": movement.reshape,
    "TRANSPOSE": movement.transpose,
    "PAD": movement.pad,
    "SLICE": movement.crop,
    "RESIZE_NEAREST_NEIGHBOR": resize.nearest_neighbor,
    "RESIZE_BILINEAR": resize.bilinear,
    "RELU": nonlinear.relu,
    "RELU6": nonlinear.relu6,
    "LEAKY_RELU": nonlinear.leaky_relu,
    "PRELU": nonlinear.prelu,
    "HARD_SWISH": nonlinear.hard_swish,
    "LOGISTIC": curves.logistic,
    "TANH": curves.tanh,
    "SOFTMAX": softmax.softmax,
    "QUANTIZE": nonlinear.quantize,
}

_LIBRARY = (
    "the kernel tabulates the function with the C library's float32 arithmetic, whose last bit "
    "decides between two integers where the function is halfway"
)
#: (operator, activation type) -> (largest difference to LiteRT's reference kernels in LSB, why).
#: Everything else is bit-identical.
TOLERANCE: dict[tuple[str, str], tuple[int, str]] = {
    ("LOGISTIC", "int8"): (1, _LIBRARY),
    ("TANH", "int8"): (1, _LIBRARY),
}


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
    if operator.kind not in _KERNELS:
        raise ValueError(f"operator {operator.kind} is not known to the integer reference")
    values = _KERNELS[operator.kind](Operands.of(operator, tensors, inputs))
    declared = tensors[operator.outputs[0]].shape
    if values.shape[1:] != declared[1:]:
        raise ValueError(
            f"operator {operator.kind} of layer {operator.layer!r}: the result has shape "
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
            raise ValueError(
                f"operator {operator.kind} of layer {operator.layer!r} reads {missing[0]!r}, which "
                "nothing has written"
            )
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
