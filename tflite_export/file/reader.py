"""Reads TensorFlow Lite files, ours or not, into plain tables."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.file import packing
from tflite_export.file.atomic import path_of
from tflite_export.file.damage import damaged, names_damage
from tflite_export.file.stored import StoredModel, StoredOperator, StoredTensor
from tflite_export.graph.kinds import is_known, kind_of

_TYPE_NAMES = {
    code: name.lower() for name, code in vars(schema.TensorType).items() if name.isupper()
}
_OPERATOR_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()
}


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
def stored_model(model: str | Path | bytes) -> StoredModel:
    """`parse` of a file that callers name by its path, or hold."""
    return parse(content_of(model))


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
