"""Flatbuffer bytes of an integer graph.

Buffers stay inside the flatbuffer (TensorFlow Lite Micro silently reads wrong weights otherwise),
are 16-byte aligned and shared when equal, as are zero points, shapes and other vectors of numbers.
The same graph gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.file import packing
from tflite_export.file.options import arranged, encode
from tflite_export.graph.kinds import kind_of
from tflite_export.graph.places import counted
from tflite_export.graph.structure import IntegerGraph, Operator, Tensor

_ALIGNMENT = 16
_SCHEMA_VERSION = 3
_DESCRIPTION = "tflite_export"


def write(graph: IntegerGraph, storage: Mapping[str, str] | None = None) -> bytes:
    """Serializes a validated graph.

    Args:
        storage: tensor name -> container ("int2", "int4", "int8") of the constants that are
            stored narrower than their dtype.
    """
    return serialize(_ModelBuilder(graph, storage or {}).build())


def serialize(model: schema.ModelT) -> bytes:
    """Bytes of a model in object form, with its buffers aligned."""
    buffers = []
    for buffer in model.buffers:
        aligned = _AlignedBuffer()
        aligned.data = buffer.data
        buffers.append(aligned)
    model.buffers = buffers
    builder = _SharingBuilder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class _SharingBuilder(flatbuffers.Builder):
    """Writes equal vectors once and points to them from every table that holds them.

    Every scale of a layer has a zero point of 8 bytes, and that of its bias another: all are zero,
    and in small models they would outweigh the scales and biases themselves.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._vectors: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802
        key = x.dtype.str, x.tobytes()
        if key not in self._vectors:
            self._vectors[key] = super().CreateNumpyVector(x)
        return self._vectors[key]


class _AlignedBuffer(schema.BufferT):
    """A buffer whose data starts at a multiple of `_ALIGNMENT`, which the Python API forgets."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802
        data = None
        if self.data is not None:
            content = np.asarray(self.data, np.uint8).tobytes()
            builder.StartVector(1, len(content), _ALIGNMENT)
            builder.head = builder.head - len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


class _ModelBuilder:
    def __init__(self, graph: IntegerGraph, storage: Mapping[str, str]) -> None:
        self._graph = graph
        self._storage = storage
        #: Kernels take them for numbers of a scale if they have one.
        self._counted = counted(graph)
        self._buffers: list[schema.BufferT] = [schema.BufferT()]
        self._buffer_index: dict[bytes, int] = {}
        self._tensors: list[schema.TensorT] = []
        self._tensor_index: dict[str, int] = {}
        self._operands: dict[tuple[str, tuple[int, ...], bytes], int] = {}
        self._codes: dict[tuple[int, int], int] = {}

    def build(self) -> schema.ModelT:
        for tensor in self._graph.tensors.values():
            self._tensor_index[tensor.name] = self._add_tensor(tensor)
        subgraph = schema.SubGraphT()
        subgraph.name = self._graph.name
        subgraph.operators = [self._operator(operator) for operator in self._graph.operators]
        subgraph.tensors = self._tensors
        subgraph.inputs = self._indices(self._graph.inputs)
        subgraph.outputs = self._indices(self._graph.outputs)
        model = schema.ModelT()
        model.version = _SCHEMA_VERSION
        model.description = _DESCRIPTION
        model.operatorCodes = [_operator_code(*key) for key in self._codes]
        model.subgraphs = [subgraph]
        model.signatureDefs = [self._signature()]
        model.buffers = self._buffers
        return model

    def _indices(self, endpoints: tuple[tuple[str, str], ...]) -> list[int]:
        return [self._tensor_index[name] for _, name in endpoints]

    def _add_tensor(self, tensor: Tensor) -> int:
        container = self._storage.get(tensor.name, tensor.dtype)
        entry = schema.TensorT()
        entry.name = tensor.name
        entry.shape = np.array(tensor.shape, np.int32)
        entry.type = getattr(schema.TensorType, container.upper())
        entry.buffer = self._buffer(_stored(tensor, container)) if tensor.is_constant else 0
        if tensor.name not in self._counted:
            entry.quantization = _quantization(tensor)
        return self._append(entry)

    def _add_operand(self, name: str, values: np.ndarray) -> int:
        """A constant of an operator; equal ones of other operators are the same tensor."""
        key = (name.rpartition("/")[2], values.shape, values.tobytes())
        if key not in self._operands:
            self._operands[key] = self._new_operand(name, values)
        return self._operands[key]

    def _new_operand(self, name: str, values: np.ndarray) -> int:
        entry = schema.TensorT()
        entry.name = name
        entry.shape = np.array(values.shape, np.int32)
        entry.type = schema.TensorType.INT32
        entry.buffer = self._buffer(values)
        return self._append(entry)

    def _append(self, entry: schema.TensorT) -> int:
        self._tensors.append(entry)
        return len(self._tensors) - 1

    def _buffer(self, values: np.ndarray) -> int:
        content = values.tobytes()
        if content not in self._buffer_index:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(content, np.uint8)
            self._buffers.append(buffer)
            self._buffer_index[content] = len(self._buffers) - 1
        return self._buffer_index[content]

    def _operator(self, operator: Operator) -> schema.OperatorT:
        options_type, options, operands = encode(operator)
        kind = kind_of(operator.kind)
        source = self._graph.tensors[operator.inputs[0]]
        version = kind.version(source.dtype, operator.attributes)
        code = getattr(schema.BuiltinOperator, operator.kind)
        entry = schema.OperatorT()
        entry.opcodeIndex = self._codes.setdefault((code, version), len(self._codes))
        constants = {
            name: self._add_operand(f"{operator.outputs[0]}/{name}", values)
            for name, values in operands.items()
        }
        entry.inputs = arranged(
            kind, [self._tensor_index[name] for name in operator.inputs], constants
        )
        entry.outputs = [self._tensor_index[name] for name in operator.outputs]
        entry.builtinOptionsType = options_type
        entry.builtinOptions = options
        return entry

    def _signature(self) -> schema.SignatureDefT:
        signature = schema.SignatureDefT()
        signature.signatureKey = "serving_default"
        signature.subgraphIndex = 0
        signature.inputs = self._signature_map(self._graph.inputs)
        signature.outputs = self._signature_map(self._graph.outputs)
        return signature

    def _signature_map(self, endpoints: tuple[tuple[str, str], ...]) -> list[Any]:
        entries = []
        for public, tensor in endpoints:
            entry = schema.TensorMapT()
            entry.name = public
            entry.tensorIndex = self._tensor_index[tensor]
            entries.append(entry)
        return entries


def _stored(tensor: Tensor, container: str) -> np.ndarray:
    assert tensor.data is not None
    bits = packing.CONTAINER_BITS[container]
    return packing.pack(tensor.data, bits=bits) if bits < 8 else tensor.data


def _quantization(tensor: Tensor) -> schema.QuantizationParametersT:
    entry = schema.QuantizationParametersT()
    scale = tensor.quantization.scale
    entry.scale = scale
    entry.zeroPoint = np.full(scale.size, tensor.quantization.zero_point, np.int64)
    entry.quantizedDimension = tensor.quantization.axis
    return entry


def _operator_code(code: int, version: int) -> schema.OperatorCodeT:
    entry = schema.OperatorCodeT()
    entry.builtinCode = code
    # Readers older than schema 3a find the code here; codes above 127 carry a placeholder.
    entry.deprecatedBuiltinCode = min(code, 127)
    entry.version = version
    return entry
