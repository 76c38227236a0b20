"""The integer graph that a file holds, where it is one."""

from __future__ import annotations

import dataclasses

import numpy as np

from tflite_export.file import packing
from tflite_export.file.damage import names_damage
from tflite_export.file.options import decode, parted
from tflite_export.file.stored import StoredModel, StoredOperator, StoredTensor
from tflite_export.graph.kinds import is_known, kind_of
from tflite_export.graph.names import unique_name
from tflite_export.graph.operand_rules import INDEX
from tflite_export.graph.structure import IntegerGraph, Operator, Quantization, Tensor


@names_damage
def to_graph(model: StoredModel) -> IntegerGraph:
    """The integer graph of a file whose operators are all known and whose tensors are integers.

    Raises:
        ValueError: names the first operator or tensor that an integer graph cannot hold.
    """
    model = _named_apart(model)
    names = [tensor.name for tensor in model.tensors]
    used: set[int] = set(model.inputs) | set(model.outputs)
    operators = []
    for operator in model.operators:
        operators.append(_graph_operator(operator, model))
        inputs, _ = parted(kind_of(operator.kind), _present(operator))
        used.update((*inputs, *operator.outputs))
    chosen = _index_tensors(model)
    tensors = {
        names[index]: _graph_tensor(model.tensors[index], is_index=index in chosen)
        for index in sorted(used)
    }
    return IntegerGraph(
        model.name,
        tensors,
        tuple(operators),
        tuple((p, names[i]) for p, i in zip(model.input_names, model.inputs, strict=True)),
        tuple((p, names[i]) for p, i in zip(model.output_names, model.outputs, strict=True)),
    )


def _named_apart(model: StoredModel) -> StoredModel:
    """Files may give one name to several tensors; the first keeps it."""
    taken: set[str] = set()
    tensors = [
        dataclasses.replace(tensor, name=unique_name(tensor.name, taken))
        for tensor in model.tensors
    ]
    return dataclasses.replace(model, tensors=tuple(tensors))


def _present(operator: StoredOperator) -> tuple[int, ...]:
    """Inputs without the absent ones at the end: a dense layer's bias."""
    inputs = operator.inputs
    while inputs and inputs[-1] == -1:
        inputs = inputs[:-1]
    return inputs


def _graph_operator(operator: StoredOperator, model: StoredModel) -> Operator:
    if not is_known(operator.kind):
        raise ValueError(f"operator {operator.kind} is not known to the integer reference")
    kind = kind_of(operator.kind)
    inputs, constants = parted(kind, _present(operator))
    absent = -1 in (*inputs, *constants, *operator.outputs)
    operands = [None if absent else model.tensors[index].values for index in constants]
    is_short = not inputs or len(operands) < len(kind.constants)
    if absent or is_short or any(operand is None for operand in operands):
        raise ValueError(f"operator {operator.kind} has computed or absent operands")
    outputs = tuple(model.tensors[index].name for index in operator.outputs)
    return Operator(
        operator.kind,
        tuple(model.tensors[index].name for index in inputs),
        outputs,
        outputs[0],
        decode(operator.kind, operator.options, [o for o in operands if o is not None]),
    )


def _index_tensors(model: StoredModel) -> set[int | None]:
    """Tensors whose integers choose entries of a table, or are counted with."""
    known = [operator for operator in model.operators if is_known(operator.kind)]
    chosen = {
        operator.operand(role) for operator in known for role in kind_of(operator.kind).indexes
    }
    counted = {
        index
        for operator in known
        if kind_of(operator.kind).counts and _writes_places(operator, model)
        for index in (*operator.inputs, *operator.outputs)
    }
    return chosen | counted


def _writes_places(operator: StoredOperator, model: StoredModel) -> bool:
    return any(tensor.type == INDEX for tensor in model.written_by(operator))


def _graph_tensor(tensor: StoredTensor, *, is_index: bool) -> Tensor:
    if is_index and tensor.scale is None:
        # What chooses an entry is the integer itself.
        one = np.ones(1, np.float32)
        tensor = dataclasses.replace(tensor, scale=one, zero_point=np.zeros(1, np.int64))
    if tensor.scale is None or tensor.zero_point is None:
        raise ValueError(f"tensor {tensor.name!r} ({tensor.type}) is not quantized")
    bits = packing.CONTAINER_BITS.get(tensor.type)
    if bits is None:
        raise ValueError(f"tensor {tensor.name!r} has type {tensor.type}, not a signed integer")
    dtype = tensor.type if bits >= 8 else "int8"
    if np.any(tensor.zero_point != tensor.offset):
        raise ValueError(f"tensor {tensor.name!r} has unequal zero points")
    quantization = Quantization(tensor.scale, tensor.offset, tensor.axis)
    return Tensor(tensor.name, tensor.shape, dtype, quantization, tensor.values, bits)
