"""Whether an integer graph is complete, in order, and what kernels can execute."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from tflite_export.graph.case import Case
from tflite_export.graph.codes import check_codes
from tflite_export.graph.kinds import is_known, kind_of, known
from tflite_export.graph.operand_rules import check_counts, check_operands
from tflite_export.graph.shapes import check_shapes
from tflite_export.graph.structure import DTYPES, IntegerGraph, Operator, Tensor, is_shares


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
        check_counts(operator, kind_of(operator.kind))
        case = Case.of(operator, graph.tensors)
        check_operands(case)
        check_shapes(case)
        ready |= set(operator.outputs)
    for public, name in graph.outputs:
        if name not in ready:
            raise ValueError(f"output {public!r} reads tensor {name!r}, which nothing writes")
    check_codes(graph)
    return graph


def _check_operator(
    operator: Operator, tensors: Mapping[str, Tensor], ready: Collection[str]
) -> None:
    where = operator.where
    if not is_known(operator.kind):
        raise ValueError(f"{where}: unknown kind; allowed are {', '.join(sorted(known()))}")
    needed = kind_of(operator.kind).attributes
    if set(operator.attributes) != set(needed):
        raise ValueError(
            f"{where}: has attributes {sorted(operator.attributes)}, needs exactly {sorted(needed)}"
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
