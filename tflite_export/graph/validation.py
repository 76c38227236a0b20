"""Whether an integer graph is complete, in order, and what kernels can execute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from tflite_export.graph.codes import check_codes
from tflite_export.graph.operand_rules import check_operands
from tflite_export.graph.shapes import check_shapes
from tflite_export.graph.structure import (
    ATTRIBUTES,
    DTYPES,
    SOFTMAX_SCALE,
    TIED,
    IntegerGraph,
    Operator,
    Tensor,
    is_shares,
    parameters,
)


def validated(graph: IntegerGraph) -> IntegerGraph:
    """Checks that the graph is complete and in order; returns it.

    Raises:
        ValueError: names the operator, what was found and what is allowed.
    """

    for tensor in graph.tensors.values():
        _check_tensor(tensor)
    ready = {name for name, tensor in graph.tensors.items() if tensor.is_constant}
    ready |= {tensor for _, tensor in graph.inputs}
    for operator in graph.operators:
        _check_operator(operator, graph.tensors, ready)
        check_operands(operator, graph.tensors)
        _check_kernels(operator, graph.tensors)
        inputs = [graph.tensors[name] for name in operator.inputs]
        check_shapes(operator, inputs, graph.tensors[operator.outputs[0]])
        ready |= set(operator.outputs)
    for public, name in graph.outputs:
        if name not in ready:
            raise ValueError(f"output {public!r} reads tensor {name!r}, which nothing writes")
    check_codes(graph)
    return graph


def _check_operator(
    operator: Operator, tensors: Mapping[str, Tensor], ready: Iterable[str]
) -> None:
    where = f"operator {operator.kind} of layer {operator.layer!r}"
    if operator.kind not in ATTRIBUTES:
        raise ValueError(f"{where}: unknown kind; allowed are {', '.join(sorted(ATTRIBUTES))}")
    if set(operator.attributes) != set(ATTRIBUTES[operator.kind]):
        raise ValueError(
            f"{where}: has attributes {sorted(operator.attributes)}, "
            f"needs exactly {sorted(ATTRIBUTES[operator.kind])}"
        )
    for name in (*operator.inputs, *operator.outputs):
        if name not in tensors:
            raise ValueError(f"{where}: tensor {name!r} does not exist")
    for name in operator.inputs:
        if name not in ready:
            raise ValueError(f"{where} reads {name!r}, which nothing has written before it")
    for name in operator.outputs:
        if name in ready:
            raise ValueError(f"{where}: writes {name!r}, which is written before")


def _check_kernels(operator: Operator, tensors: Mapping[str, Tensor]) -> None:
    """What kernels refuse, compute wrongly or do not survive."""
    where = f"operator {operator.kind} of layer {operator.layer!r}"
    given = tensors[operator.inputs[0]]
    if operator.kind == "SOFTMAX" and given.dtype == "int8":
        _check_softmax(float(given.quantization.scale[0]), where)
    if operator.kind in TIED:
        _check_tied(operator, tensors, where)


def _check_softmax(scale: float, where: str) -> None:
    if scale <= SOFTMAX_SCALE:
        raise ValueError(
            f"{where}: its input has scale {scale:.3g}, kernels abort the program at "
            f"{SOFTMAX_SCALE:.3g} and below: the logits are the same for all samples; has the "
            "model been trained?"
        )


def _check_tied(operator: Operator, tensors: Mapping[str, Tensor], where: str) -> None:
    made = tensors[operator.outputs[0]]
    for given in (tensors[name] for name in operator.inputs):
        if parameters(given) != parameters(made):
            raise ValueError(
                f"{where}: copies integers, so {given.name!r} {parameters(given)} and "
                f"{made.name!r} {parameters(made)} must have the same type, scale and zero "
                "point; put a QUANTIZE before it"
            )


def _check_tensor(tensor: Tensor) -> None:
    where = f"tensor {tensor.name!r}"
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{where}: dtype {tensor.dtype!r}; allowed are {DTYPES}")
    limits = np.iinfo(tensor.dtype)
    if not limits.min <= tensor.quantization.zero_point <= limits.max:
        raise ValueError(
            f"{where}: zero point {tensor.quantization.zero_point} lies outside of {tensor.dtype}"
        )
    if tensor.dtype == "int16" and tensor.quantization.zero_point != 0 and not is_shares(tensor):
        raise ValueError(
            f"{where}: int16 needs zero point 0, received {tensor.quantization.zero_point}"
        )
    if tensor.data is None:
        return
    if tensor.data.dtype != np.dtype(tensor.dtype) or tensor.data.shape != tensor.shape:
        raise ValueError(
            f"{where}: data is {tensor.data.dtype} {tensor.data.shape}, "
            f"declared {tensor.dtype} {tensor.shape}"
        )
    low, high = -(2 ** (tensor.bits - 1)), 2 ** (tensor.bits - 1) - 1
    if tensor.data.size and not (low <= int(tensor.data.min()) and int(tensor.data.max()) <= high):
        raise ValueError(f"{where}: values outside the {tensor.bits}-bit range [{low}, {high}]")
