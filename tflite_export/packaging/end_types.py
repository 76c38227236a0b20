"""Ends of a file as its callers have their numbers: bytes without a sign, or floats.

One QUANTIZE at an input and one QUANTIZE or DEQUANTIZE at an output convert; everything between
them stays as it was verified. uint8 code u means what int8 code u - 128 does, with the same scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.file.ends import INDEX, dequantized, integer_range
from tflite_export.file.reader import StoredTensor, parse
from tflite_export.file.writer import serialize
from tflite_export.operators.rescaling import QUANTIZE
from tflite_export.runtimes.isolation import guarded
from tflite_export.runtimes.sessions import RUNTIMES, open_session
from tflite_export.targets import able, capabilities
from tflite_export.targets.forbidden import executes

#: Types that ends can have; "int8" keeps what the graph has.
ENDS = ("int8", "uint8", "float32")
_OFFSET = 128
#: To floats, which no integer graph holds: its version and table.
_DEQUANTIZE, _DEQUANTIZE_VERSION, _DEQUANTIZE_OPTIONS = "DEQUANTIZE", 2, "DequantizeOptions"
_SAMPLES = 4


def check_ends(target: str, input_type: str | None, output_type: str | None) -> None:
    """Refuses ends that a target does not take, before any work.

    Raises:
        ValueError: an unknown type, or floats where no operator on the target converts them.
    """
    for name, kind in (("input_type", input_type), ("output_type", output_type)):
        if kind is not None and kind not in ENDS:
            raise ValueError(f"{name}={kind!r} is unknown; allowed are {', '.join(ENDS)}")
        if kind == "float32" and not capabilities(target).takes_float_ends:
            raise ValueError(
                f"{name}='float32' is for target {' or '.join(map(repr, able('takes_float_ends')))}"
                f" only: on {target!r} floats would be "
                "converted outside of the accelerator or cost floating-point code; use 'int8' or "
                "'uint8' and convert with the scale and zero point that `inspect` shows"
            )


def with_ends(
    content: bytes, target: str, *, input_type: str | None = None, output_type: str | None = None
) -> bytes:
    """The same network with other types at its ends; proven on random inputs.

    Args:
        content: a verified file of integers.
        input_type, output_type: one of `ENDS` for all inputs or outputs; None: as they are.

    Raises:
        ValueError: ends of 16 bits as bytes, or the new file computes something else.
    """
    check_ends(target, input_type, output_type)
    if not _changes(content, input_type, output_type):
        return content
    made = _converted(content, input_type, output_type)
    for runtime in capabilities(target).runtimes:
        if RUNTIMES[runtime].missing() is None and executes(parse(content), runtime):
            guarded(made, runtime, _compare, content, made, runtime)
    return made


def _changes(content: bytes, input_type: str | None, output_type: str | None) -> bool:
    stored = parse(content)
    changed = False
    for role, indices, kind in (
        ("input", stored.inputs, input_type),
        ("output", stored.outputs, output_type),
    ):
        for tensor in (stored.tensors[index] for index in indices):
            if tensor.type == INDEX:
                # What numbers rows is no quantity.
                continue
            if kind in ("int8", "uint8") and tensor.type != "int8":
                raise ValueError(
                    f"{role} {tensor.name!r} is {tensor.type} and cannot be {kind} without loss: "
                    "give its layer 8 activation bits"
                )
            changed |= kind is not None and kind != tensor.type
    return changed


def _converted(content: bytes, input_type: str | None, output_type: str | None) -> bytes:
    model, stored = schema.ModelT.InitFromPackedBuf(content, 0), parse(content)
    subgraph = model.subgraphs[0]
    moved: dict[int, int] = {}
    before, after = [], []
    for index in dict.fromkeys(stored.inputs):
        if input_type not in (None, stored.tensors[index].type) and (
            stored.tensors[index].type != INDEX
        ):
            moved[index] = _add_tensor(subgraph, stored.tensors[index], str(input_type))
            before.append(_operator(model, QUANTIZE.name, moved[index], index))
    inputs = [moved.get(index, index) for index in stored.inputs]
    results: dict[int, int] = {}
    for index in dict.fromkeys(stored.outputs):
        if output_type not in (None, stored.tensors[index].type):
            results[index] = _add_tensor(subgraph, stored.tensors[index], str(output_type))
            kind = _DEQUANTIZE if output_type == "float32" else QUANTIZE.name
            after.append(_operator(model, kind, index, results[index]))
    outputs = [results.get(index, index) for index in stored.outputs]
    subgraph.operators = [*before, *subgraph.operators, *after]
    for signature in model.signatureDefs or ():
        for entry in signature.inputs:
            entry.tensorIndex = moved.get(entry.tensorIndex, entry.tensorIndex)
        for entry in signature.outputs:
            entry.tensorIndex = results.get(entry.tensorIndex, entry.tensorIndex)
    subgraph.inputs, subgraph.outputs = inputs, outputs
    return serialize(model)


def _add_tensor(subgraph: Any, like: StoredTensor, kind: str) -> int:
    entry = schema.TensorT()
    entry.name = f"{like.name}/{kind}"
    entry.shape = list(like.shape)
    entry.type = getattr(schema.TensorType, kind.upper())
    entry.buffer = 0
    if kind == "uint8":
        assert like.scale is not None
        assert like.zero_point is not None
        entry.quantization = schema.QuantizationParametersT()
        entry.quantization.scale = like.scale
        entry.quantization.zeroPoint = like.zero_point + _OFFSET
    subgraph.tensors.append(entry)
    return len(subgraph.tensors) - 1


def _operator(model: Any, kind: str, source: int, target: int) -> schema.OperatorT:
    builtin = getattr(schema.BuiltinOperator, kind)
    codes = [code.builtinCode for code in model.operatorCodes]
    if builtin not in codes:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        is_float = kind == _DEQUANTIZE
        code.version = _DEQUANTIZE_VERSION if is_float else QUANTIZE.version("int8")
        model.operatorCodes.append(code)
        codes.append(builtin)
    entry = schema.OperatorT()
    entry.opcodeIndex = codes.index(builtin)
    entry.inputs, entry.outputs = [source], [target]
    name = _DEQUANTIZE_OPTIONS if kind == _DEQUANTIZE else str(QUANTIZE.options)
    entry.builtinOptionsType = getattr(schema.BuiltinOptions, name)
    entry.builtinOptions = getattr(schema, f"{name}T")()
    return entry


def _compare(content: bytes, made: bytes, runtime: str) -> None:
    """Runs both files on the same integers, as each takes them."""
    inner, outer = parse(content), parse(made)
    generator = np.random.default_rng(0)
    given = []
    for index in inner.inputs:
        tensor = inner.tensors[index]
        low, high = integer_range(inner, index)
        shape = (_SAMPLES, *tensor.shape[1:])
        given.append(generator.integers(low, high + 1, shape).astype(tensor.type))
    expected = open_session(content, runtime)(given)
    asked = [
        _outside(array, inner.tensors[index], outer.tensors[end].type)
        for array, index, end in zip(given, inner.inputs, outer.inputs, strict=True)
    ]
    for found, array, index, end in zip(
        open_session(made, runtime)(asked), expected, inner.outputs, outer.outputs, strict=True
    ):
        wanted = _outside(array, inner.tensors[index], outer.tensors[end].type)
        if not np.allclose(found, wanted, rtol=1e-6, atol=0):
            raise ValueError(
                f"{runtime}: output {inner.tensors[index].name!r} changes when the file's ends are "
                f"{outer.tensors[end].type}"
            )


def _outside(integers: np.ndarray, tensor: StoredTensor, kind: str) -> np.ndarray:
    """What a caller passes or gets for integers of an inner tensor."""
    if kind == "uint8":
        return (integers.astype(np.int16) + _OFFSET).astype(np.uint8)
    return dequantized(integers, tensor) if kind == "float32" else integers
