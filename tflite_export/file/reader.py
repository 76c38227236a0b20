"""A TensorFlow Lite file as plain tables, and as an integer graph where it is one."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.file import packing
from tflite_export.file.atomic import path_of
from tflite_export.file.damage import damaged, names_damage
from tflite_export.file.options import decode, parted
from tflite_export.graph.kinds import is_known, kind_of
from tflite_export.graph.names import unique_name
from tflite_export.graph.operand_rules import INDEX
from tflite_export.graph.structure import IntegerGraph, Operator, Quantization, Tensor

_TYPE_NAMES = {
    code: name.lower() for name, code in vars(schema.TensorType).items() if name.isupper()
}
_OPERATOR_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()
}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor as the file holds it; `values` of packed containers are unpacked to int8.

    Attributes:
        buffer: number of the buffer that holds its bytes; tensors may share one.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    scale: np.ndarray | None
    zero_point: np.ndarray | None
    axis: int
    stored_bytes: int
    values: np.ndarray | None
    buffer: int

    @property
    def offset(self) -> int:
        """The (first) zero point; what a file does not say is 0."""
        return (
            int(self.zero_point[0]) if self.zero_point is not None and self.zero_point.size else 0
        )


@dataclasses.dataclass(frozen=True)
class StoredOperator:
    """An operator as the file holds it; -1 among the inputs is an absent operand."""

    kind: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any

    def operand(self, role: str) -> int | None:
        """The tensor with a role; None where it is absent, or where we do not know the operator."""
        if not is_known(self.kind):
            return None
        order = kind_of(self.kind).order(len(self.inputs))
        index = self.inputs[order.index(role)] if role in order else -1
        return index if index >= 0 else None

    @property
    def source(self) -> int | None:
        """The first tensor that it computes with, of an unknown operator its first input."""
        if is_known(self.kind):
            return self.operand(kind_of(self.kind).roles[0])
        return next((index for index in self.inputs if index >= 0), None)


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """The first subgraph of a file; `signature` holds (public name, tensor index) pairs."""

    name: str
    tensors: tuple[StoredTensor, ...]
    operators: tuple[StoredOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    subgraphs: int
    description: str


def content_of(model: str | Path | bytes) -> bytes:
    """The content of a file that callers name by its path, or hold.

    Raises:
        ValueError: what is no path and no bytes, no such file, or not TensorFlow Lite.
    """
    if isinstance(model, (bytes, bytearray, memoryview)):
        content = bytes(model)
        _check_identifier(content, "the content")
        return content
    if not isinstance(model, (str, os.PathLike)):
        raise ValueError(
            f"a {type(model).__name__} is no file: pass the path of a .tflite file, or its bytes"
        )
    return read_bytes(model)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Content of a file. Raises ValueError with the reason when it is not TensorFlow Lite."""
    path = path_of(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the path of a .tflite file")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    _check_identifier(content, str(path))
    return content


def _check_identifier(content: bytes, what: str) -> None:
    if content[4:8] != b"TFL3":
        held = "an archive, as .keras and .npz are" if content[:2] == b"PK" else ""
        raise ValueError(
            f"{what}: not a TensorFlow Lite file ({held or f'identifier {content[4:8]!r}'}); "
            "tflite_export.export and `tfeptq quantize` write those"
        )


@names_damage
def parse(content: bytes) -> StoredModel:
    """Tables of a file's first subgraph.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
    except Exception as error:
        # A damaged flatbuffer fails anywhere in the generated reader, with any exception type.
        raise damaged(f"{type(error).__name__}: {error}") from error
    return _stored_model(model)


def _stored_model(model: Any) -> StoredModel:
    if not model.subgraphs:
        raise damaged("it has no subgraph")
    subgraph = model.subgraphs[0]
    tensors = tuple(_stored_tensor(tensor, model) for tensor in subgraph.tensors or ())
    operators = tuple(stored_operator(operator, model) for operator in subgraph.operators or ())
    inputs, outputs = _indices(subgraph.inputs), _indices(subgraph.outputs)
    _check_indices(operators, (*inputs, *outputs), len(tensors))
    signature = next((s for s in model.signatureDefs or () if s.subgraphIndex == 0), None)
    return StoredModel(
        _text(subgraph.name),
        tensors,
        operators,
        inputs,
        outputs,
        _public_names(inputs, tensors, signature.inputs if signature else ()),
        _public_names(outputs, tensors, signature.outputs if signature else ()),
        len(model.subgraphs),
        _text(model.description),
    )


def _check_indices(
    operators: tuple[StoredOperator, ...], endpoints: tuple[int, ...], count: int
) -> None:
    """Every tensor that is spoken of exists; -1 is an absent operand."""
    for operator in operators:
        for index in (*operator.inputs, *operator.outputs):
            if not -1 <= index < count:
                raise damaged(f"operator {operator.kind} names tensor {index} of {count}")
        _check_counts(operator)
    for index in endpoints:
        if not 0 <= index < count:
            raise damaged(f"an input or output is tensor {index} of {count}")


def _check_counts(operator: StoredOperator) -> None:
    """Operators that we know have the operands that none of their kernels can do without."""
    if not is_known(operator.kind):
        return
    kind = kind_of(operator.kind)
    in_order = len(kind.layout) - kind.optional
    needed = in_order if kind.layout else min(kind.fewest_inputs, 2)
    if len(operator.inputs) < needed or -1 in operator.inputs[:needed] or not operator.outputs:
        raise damaged(
            f"operator {operator.kind} has the inputs {operator.inputs} and the outputs "
            f"{operator.outputs}, needs at least {needed} and 1"
        )


def _public_names(
    indices: tuple[int, ...], tensors: tuple[StoredTensor, ...], entries: Any
) -> tuple[str, ...]:
    """Names in the signature; a tensor that is there twice has its names in their order."""
    named: dict[int, list[str]] = {}
    for entry in entries or ():
        named.setdefault(entry.tensorIndex, []).append(_text(entry.name))
    return tuple(
        named[index].pop(0) if named.get(index) else tensors[index].name for index in indices
    )


def _stored_tensor(tensor: Any, model: Any) -> StoredTensor:
    name, shape = _text(tensor.name), _indices(tensor.shape)
    if tensor.type not in _TYPE_NAMES:
        raise damaged(f"tensor {name!r} has the unknown type {tensor.type}")
    kind, count = _TYPE_NAMES[tensor.type], len(model.buffers or ())
    if not 0 <= tensor.buffer < count:
        raise damaged(f"tensor {name!r} names buffer {tensor.buffer} of {count}")
    data = model.buffers[tensor.buffer].data
    raw = None if data is None or len(data) == 0 else np.asarray(data, np.uint8)
    quantization = tensor.quantization
    scale = None if quantization is None else quantization.scale
    has_scale = scale is not None and len(scale) > 0
    return StoredTensor(
        name,
        kind,
        shape,
        np.asarray(scale, np.float32) if has_scale else None,
        np.asarray(_or_empty(quantization.zeroPoint), np.int64) if has_scale else None,
        quantization.quantizedDimension if quantization is not None else 0,
        0 if raw is None else raw.size,
        None if raw is None or tensor.sparsity else _values(raw, kind, shape, name),
        int(tensor.buffer),
    )


def _or_empty(values: Any) -> Any:
    return () if values is None else values


def _values(raw: np.ndarray, kind: str, shape: tuple[int, ...], name: str) -> np.ndarray | None:
    bits = packing.CONTAINER_BITS.get(kind) or _other_bits(kind)
    if bits is None:
        return None
    count = math.prod(shape)
    if min(shape, default=1) < 0 or raw.size != -(-count * bits // 8):
        raise damaged(f"tensor {name!r} {shape} of {kind} has {raw.size} bytes of data")
    if bits < 8:
        return packing.unpack(raw, bits=bits, count=count).reshape(shape)
    return raw.view(np.dtype(kind)).reshape(shape)


def _other_bits(kind: str) -> int | None:
    """Bits of one element of types that are no weights but that numpy knows."""
    if kind in ("string", "resource", "variant", "bfloat16") or not hasattr(np, kind):
        return None
    return 8 * np.dtype(kind).itemsize


def stored_operator(operator: Any, model: Any) -> StoredOperator:
    """An operator of a model in object form."""
    count = len(model.operatorCodes or ())
    if not 0 <= operator.opcodeIndex < count:
        raise damaged(f"an operator has code number {operator.opcodeIndex} of {count}")
    code = model.operatorCodes[operator.opcodeIndex]
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    if builtin not in _OPERATOR_NAMES:
        raise damaged(f"operator code {builtin} is unknown")
    kind = _OPERATOR_NAMES[builtin]
    if kind == "CUSTOM":
        kind = f"CUSTOM:{_text(code.customCode)}"
    return StoredOperator(
        kind,
        code.version,
        _indices(operator.inputs),
        _indices(operator.outputs),
        operator.builtinOptions,
    )


def _indices(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(int(value) for value in values)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@names_damage
def to_graph(model: StoredModel) -> IntegerGraph:
    """The integer graph of a file whose operators are all known and whose tensors are integers.

    Raises:
        ValueError: names the first operator or tensor that an integer graph cannot hold.
    """
    model = _named_apart(model)
    used: set[int] = set(model.inputs) | set(model.outputs)
    operators, names = [], _unique_names(model)
    for operator in model.operators:
        operators.append(_graph_operator(operator, model, names))
        inputs, _ = parted(kind_of(operator.kind), _present(operator))
        used.update((*inputs, *operator.outputs))
    chosen = _index_tensors(model)
    tensors = {
        names[index]: _graph_tensor(
            dataclasses.replace(model.tensors[index], name=names[index]), is_index=index in chosen
        )
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


def _unique_names(model: StoredModel) -> list[str]:
    """Names of tensors, told apart where a file gives several the same."""
    names: dict[str, None] = {}
    for tensor in model.tensors:
        name, number = tensor.name, 1
        while name in names:
            name, number = f"{tensor.name}_{number}", number + 1
        names[name] = None
    return list(names)


def _graph_operator(operator: StoredOperator, model: StoredModel, names: Sequence[str]) -> Operator:
    if not is_known(operator.kind):
        raise ValueError(f"operator {operator.kind} is not known to the integer reference")
    kind = kind_of(operator.kind)
    inputs, constants = parted(kind, _present(operator))
    absent = -1 in (*inputs, *constants, *operator.outputs)
    operands = [None if absent else model.tensors[index].values for index in constants]
    is_short = not inputs or len(operands) < len(kind.constants)
    if absent or is_short or any(operand is None for operand in operands):
        raise ValueError(f"operator {operator.kind} has computed or absent operands")
    outputs = tuple(names[index] for index in operator.outputs)
    return Operator(
        operator.kind,
        tuple(names[index] for index in inputs),
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
    return any(model.tensors[index].type == INDEX for index in operator.outputs if index >= 0)


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
