"""Proof that a file holds what was learned: it is read back and compared with its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tflite_export.file.as_graph import to_graph
from tflite_export.file.stored import StoredModel
from tflite_export.graph.structure import IntegerGraph, Operator, Tensor


class VerificationError(ValueError):
    """The file does not hold, or a runtime does not compute, what was learned."""


def read_back(stored: StoredModel, graph: IntegerGraph, *, storage: Mapping[str, str]) -> int:
    """Compares a parsed file with the graph it was written from; returns the constants compared."""
    for entry in stored.tensors:
        if entry.type.startswith("float"):
            raise VerificationError(f"tensor {entry.name!r} is {entry.type}: not an integer file")
    found = to_graph(stored)
    types = {entry.name: entry.type for entry in stored.tensors}
    if set(found.tensors) != set(graph.tensors):
        odd = sorted(set(found.tensors) ^ set(graph.tensors))
        raise VerificationError(f"tensors {odd} are in the file or the graph only")
    for name, tensor in graph.tensors.items():
        _compare_tensor(tensor, found.tensors[name], types[name], storage.get(name, tensor.dtype))
    _compare_operators(found.operators, graph.operators)
    if (found.inputs, found.outputs) != (graph.inputs, graph.outputs):
        raise VerificationError(
            f"the file's endpoints are {found.inputs} -> {found.outputs}, "
            f"the graph's are {graph.inputs} -> {graph.outputs}"
        )
    return sum(tensor.is_constant for tensor in graph.tensors.values())


def _compare_tensor(expected: Tensor, found: Tensor, stored_type: str, container: str) -> None:
    where = f"tensor {expected.name!r}"
    if stored_type != container:
        raise VerificationError(f"{where} is stored as {stored_type}, planned was {container}")
    if expected.shape != found.shape:
        raise VerificationError(f"{where} has shape {found.shape}, learned was {expected.shape}")
    left, right = expected.quantization, found.quantization
    if not np.array_equal(left.scale, right.scale):
        raise VerificationError(f"{where}: scales differ from the learned ones")
    if left.zero_point != right.zero_point:
        raise VerificationError(
            f"{where}: zero point {right.zero_point}, learned was {left.zero_point}"
        )
    if left.per_channel and left.axis != right.axis:
        raise VerificationError(f"{where}: quantized axis {right.axis}, learned was {left.axis}")
    if expected.data is not None and not np.array_equal(expected.data, _data(found)):
        raise VerificationError(f"{where}: integers differ from the learned ones")


def _data(tensor: Tensor) -> np.ndarray:
    if tensor.data is None:
        raise VerificationError(f"tensor {tensor.name!r} has no data in the file")
    return tensor.data


def _compare_operators(found: Sequence[Operator], expected: Sequence[Operator]) -> None:
    if len(found) != len(expected):
        raise VerificationError(f"the file has {len(found)} operators, the graph {len(expected)}")
    for ours, theirs in zip(expected, found, strict=True):
        where = ours.where
        same_tensors = (ours.inputs, ours.outputs) == (theirs.inputs, theirs.outputs)
        if ours.kind != theirs.kind or not same_tensors:
            raise VerificationError(f"{where}: the file has {theirs.kind} {theirs.inputs} instead")
        for name, value in ours.attributes.items():
            if not _equal_attribute(value, theirs.attributes[name]):
                raise VerificationError(
                    f"{where}: {name} is {theirs.attributes[name]} in the file, not {value}"
                )


def _equal_attribute(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return bool(np.float32(left) == np.float32(right))
    return left == right
