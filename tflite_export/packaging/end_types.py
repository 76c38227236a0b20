"""Ends of a file as its callers have their numbers: bytes without a sign, or floats.

One QUANTIZE at an input and one QUANTIZE or DEQUANTIZE at an output convert; everything between
them stays as it was verified. uint8 code u means what int8 code u - 128 does, with the same scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.file.ends import dequantized, integer_range
from tflite_export.file.reader import parse
from tflite_export.file.stored import StoredModel, StoredTensor
from tflite_export.file.writer import serialize
from tflite_export.graph.operand_rules import INDEX
from tflite_export.graph.structure import IntegerGraph
from tflite_export.operators.rescaling import DEQUANTIZE, QUANTIZE
from tflite_export.packaging.end_operators import OFFSET, add_code, add_tensor, conversion
from tflite_export.runtimes.isolation import guarded
from tflite_export.runtimes.sessions import RUNTIMES, open_session
from tflite_export.targets import able, capabilities
from tflite_export.targets.forbidden import executes

#: Types that ends can have; "int8" keeps what the graph has.
ENDS = ("int8", "uint8", "float32")
_DEQUANTIZE_VERSION, _DEQUANTIZE_OPTIONS = 2, "DequantizeOptions"
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


def require_convertible(
    graph: IntegerGraph, input_type: str | None, output_type: str | None
) -> None:
    """Refuses ends of 16 bits as bytes, of a graph whose values need not be known yet.

    Raises:
        ValueError: names the end.
    """
    for role, ends, kind in (
        ("input", graph.inputs, input_type),
        ("output", graph.outputs, output_type),
    ):
        for _, name in ends:
            _require_convertible(role, name, graph.tensors[name].dtype, kind)


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
            _require_convertible(role, tensor.name, tensor.type, kind)
            changed |= _is_converted(tensor.type, kind)
    return changed


def _require_convertible(role: str, name: str, dtype: str, kind: str | None) -> None:
    if _is_converted(dtype, kind) and kind != "float32" and dtype != "int8":
        raise ValueError(
            f"{role} {name!r} is {dtype} and cannot be {kind} without loss: give its layer 8 "
            "activation bits"
        )


def _is_converted(dtype: str, kind: str | None) -> bool:
    """Numbers of places are no quantities: they stay as they are."""
    return dtype != INDEX and kind not in (None, dtype)


def _converted(content: bytes, input_type: str | None, output_type: str | None) -> bytes:
    model, stored = schema.ModelT.InitFromPackedBuf(content, 0), parse(content)
    subgraph = model.subgraphs[0]
    given = _added_ends(subgraph, stored, stored.inputs, input_type)
    before = [_operator(model, QUANTIZE.name, end, inner) for inner, end in given.items()]
    made = _added_ends(subgraph, stored, stored.outputs, output_type)
    kind = DEQUANTIZE if output_type == "float32" else QUANTIZE.name
    after = [_operator(model, kind, inner, end) for inner, end in made.items()]
    subgraph.operators = [*before, *subgraph.operators, *after]
    for signature in model.signatureDefs or ():
        for entries, moved in ((signature.inputs, given), (signature.outputs, made)):
            for entry in entries:
                entry.tensorIndex = moved.get(entry.tensorIndex, entry.tensorIndex)
    subgraph.inputs = [given.get(index, index) for index in stored.inputs]
    subgraph.outputs = [made.get(index, index) for index in stored.outputs]
    return serialize(model)


def _added_ends(
    subgraph: Any, stored: StoredModel, indices: Sequence[int], kind: str | None
) -> dict[int, int]:
    """Inner tensor -> the new one that takes its place at the file's end."""
    return {
        index: _add_end(subgraph, stored.tensors[index], str(kind))
        for index in dict.fromkeys(indices)
        if _is_converted(stored.tensors[index].type, kind)
    }


def _add_end(subgraph: Any, like: StoredTensor, kind: str) -> int:
    """A tensor that holds what another does, as a caller has it."""
    if kind != "uint8":
        return add_tensor(subgraph, like, kind)
    assert like.scale is not None
    zero_point = like.offset + OFFSET
    return add_tensor(subgraph, like, kind, scale=float(like.scale[0]), zero_point=zero_point)


def _operator(model: Any, kind: str, source: int, target: int) -> schema.OperatorT:
    codes = [code.builtinCode for code in model.operatorCodes]
    builtin, is_float = getattr(schema.BuiltinOperator, kind), kind == DEQUANTIZE
    if builtin in codes:
        code = codes.index(builtin)
    else:
        version = _DEQUANTIZE_VERSION if is_float else QUANTIZE.version("int8")
        code = add_code(model, kind, version=version)
    options = _DEQUANTIZE_OPTIONS if is_float else str(QUANTIZE.options)
    return conversion(code, source, target, options=options)


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
        return (integers.astype(np.int16) + OFFSET).astype(np.uint8)
    return dequantized(integers, tensor) if kind == "float32" else integers
