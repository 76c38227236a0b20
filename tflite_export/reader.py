"""A TensorFlow Lite file as plain tables, and as an integer graph where it is one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export import packing
from tflite_export.graph import IntegerGraph, Operator, Quantization, Tensor
from tflite_export.lowering import OPERATORS, decode
from tflite_export.names import unique_name

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


def read_bytes(path: str | Path) -> bytes:
    """Content of a file. Raises ValueError with the reason when it is not TensorFlow Lite."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise ValueError(f"{path}: not a TensorFlow Lite file (identifier {content[4:8]!r})")
    return content


def parse(content: bytes) -> StoredModel:
    """Tables of a file's first subgraph.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        return _stored_model(model)
    except ValueError:
        raise
    except Exception as error:
        # A damaged flatbuffer fails anywhere in the generated reader, with any exception type.
        raise ValueError(
            f"damaged TensorFlow Lite file: {type(error).__name__}: {error}"
        ) from error


def _stored_model(model: Any) -> StoredModel:
    subgraph = model.subgraphs[0]
    tensors = tuple(_stored_tensor(tensor, model) for tensor in subgraph.tensors)
    operators = tuple(_stored_operator(operator, model) for operator in subgraph.operators)
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
                raise ValueError(
                    f"damaged TensorFlow Lite file: operator {operator.kind} names tensor "
                    f"{index} of {count}"
                )
    for index in endpoints:
        if not 0 <= index < count:
            raise ValueError(
                f"damaged TensorFlow Lite file: an input or output is tensor {index} of {count}"
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
    kind = _TYPE_NAMES[tensor.type]
    shape = _indices(tensor.shape)
    data = model.buffers[tensor.buffer].data
    raw = None if data is None or len(data) == 0 else np.asarray(data, np.uint8)
    quantization = tensor.quantization
    scale = None if quantization is None else quantization.scale
    has_scale = scale is not None and len(scale) > 0
    return StoredTensor(
        _text(tensor.name),
        kind,
        shape,
        np.asarray(scale, np.float32) if has_scale else None,
        np.asarray(quantization.zeroPoint, np.int64) if has_scale else None,
        quantization.quantizedDimension if quantization is not None else 0,
        0 if raw is None else raw.size,
        None if raw is None else _values(raw, kind, shape),
        int(tensor.buffer),
    )


def _values(raw: np.ndarray, kind: str, shape: tuple[int, ...]) -> np.ndarray | None:
    count = int(np.prod(shape))
    bits = packing.CONTAINER_BITS.get(kind)
    if bits is not None and bits < 8:
        return packing.unpack(raw, bits=bits, count=count).reshape(shape)
    if kind not in ("string", "resource", "variant", "bfloat16") and hasattr(np, kind):
        return raw.view(np.dtype(kind)).reshape(shape)
    return None


def _stored_operator(operator: Any, model: Any) -> StoredOperator:
    code = model.operatorCodes[operator.opcodeIndex]
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
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


def to_graph(model: StoredModel) -> IntegerGraph:
    """The integer graph of a file whose operators are all known and whose tensors are integers.

    Raises:
        ValueError: names the first operator or tensor that an integer graph cannot hold.
    """
    model = _named_apart(model)
    used: set[int] = set(model.inputs) | set(model.outputs)
    operators = []
    for operator in model.operators:
        operators.append(_graph_operator(operator, model))
        count = len(operator.inputs) - len(OPERATORS[operator.kind].constants)
        used.update((*operator.inputs[:count], *operator.outputs))
    tensors = {
        model.tensors[index].name: _graph_tensor(model.tensors[index]) for index in sorted(used)
    }
    names = [tensor.name for tensor in model.tensors]
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


def _graph_operator(operator: StoredOperator, model: StoredModel) -> Operator:
    if operator.kind not in OPERATORS:
        raise ValueError(f"operator {operator.kind} is not known to the integer reference")
    count = len(operator.inputs) - len(OPERATORS[operator.kind].constants)
    operands = [model.tensors[index].values for index in operator.inputs[count:]]
    if any(operand is None for operand in operands) or -1 in operator.inputs:
        raise ValueError(f"operator {operator.kind} has computed or absent operands")
    outputs = tuple(model.tensors[index].name for index in operator.outputs)
    return Operator(
        operator.kind,
        tuple(model.tensors[index].name for index in operator.inputs[:count]),
        outputs,
        outputs[0],
        decode(operator.kind, operator.options, [o for o in operands if o is not None]),
    )


def _graph_tensor(tensor: StoredTensor) -> Tensor:
    if tensor.scale is None or tensor.zero_point is None:
        raise ValueError(f"tensor {tensor.name!r} ({tensor.type}) is not quantized")
    bits = packing.CONTAINER_BITS.get(tensor.type)
    if bits is None:
        raise ValueError(f"tensor {tensor.name!r} has type {tensor.type}, not a signed integer")
    dtype = tensor.type if bits >= 8 else "int8"
    zero_point = int(tensor.zero_point[0]) if tensor.zero_point.size else 0
    quantization = Quantization(tensor.scale, zero_point, tensor.axis)
    return Tensor(tensor.name, tensor.shape, dtype, quantization, tensor.values, bits)
