"""Operators that convert at the ends of a file, and their tensors, in the schema's object form."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.file.stored import StoredTensor

#: uint8 code u means what int8 code u - OFFSET does.
OFFSET = 128


def add_tensor(
    subgraph: Any, like: StoredTensor, kind: str, *, scale: float | None = None, zero_point: int = 0
) -> int:
    """Adds an activation of the shape of another; returns its number.

    Args:
        kind: its type, "uint8" say, which its name ends in.
        scale: None where it is not quantized.
    """
    entry = schema.TensorT()
    entry.name = f"{like.name}/{kind}"
    entry.shape = list(like.shape)
    entry.type = getattr(schema.TensorType, kind.upper())
    entry.buffer = 0
    if scale is not None:
        entry.quantization = schema.QuantizationParametersT()
        entry.quantization.scale = np.array([scale], np.float32)
        entry.quantization.zeroPoint = np.array([zero_point], np.int64)
    subgraph.tensors.append(entry)
    return len(subgraph.tensors) - 1


def add_code(model: Any, kind: str, *, version: int) -> int:
    """Adds an entry of the file's list of operators; returns its number."""
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def conversion(code: int, source: int, target: int, *, options: str) -> schema.OperatorT:
    """An operator of one input and one output.

    Args:
        code: its entry in the file's list of operators.
        options: its table of the schema, which has no fields.
    """
    entry = schema.OperatorT()
    entry.opcodeIndex = code
    entry.inputs, entry.outputs = [source], [target]
    entry.builtinOptionsType = getattr(schema.BuiltinOptions, options)
    entry.builtinOptions = getattr(schema, f"{options}T")()
    return entry
