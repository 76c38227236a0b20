"""Graphs of one operator, for parity tests against the runtimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tflite_export.file.writer import write
from tflite_export.graph.structure import IntegerGraph, Operator, Quantization, Tensor
from tflite_export.graph.validation import validated
from tflite_export.runtimes import input_ranges
from tflite_export.runtimes.sessions import open_session
from tflite_export.targets.forbidden import forbidden
from tflite_export.targets.left_out import left_out


def quantization(scale: Any, zero_point: int = 0, axis: int = 0) -> Quantization:
    return Quantization(np.atleast_1d(np.asarray(scale, np.float32)), zero_point, axis)


def activation(
    name: str, shape: tuple[int, ...], dtype: str, scale: float, zero: int = 0
) -> Tensor:
    return Tensor(name, shape, dtype, quantization(scale, 0 if dtype == "int16" else zero))


def graph_of(
    kind: str,
    inputs: Sequence[Tensor],
    output: Tensor,
    attributes: Mapping[str, Any] | None = None,
) -> IntegerGraph:
    """A graph whose constants are those of `inputs` that hold data."""
    tensors = {tensor.name: tensor for tensor in (*inputs, output)}
    names = tuple(tensor.name for tensor in inputs)
    operator = Operator(kind, names, (output.name,), "layer", dict(attributes or {}))
    fed = tuple((tensor.name, tensor.name) for tensor in inputs if not tensor.is_constant)
    return validated(IntegerGraph("test", tensors, (operator,), fed, ((output.name, output.name),)))


def random_samples(graph: IntegerGraph, *, count: int = 3, seed: int = 0) -> list[np.ndarray]:
    return input_ranges.random_samples(graph, count, np.random.default_rng(seed))


def in_runtime(
    graph: IntegerGraph,
    samples: Sequence[np.ndarray],
    *,
    runtime: str = "litert-reference",
    storage: Mapping[str, str] | None = None,
) -> np.ndarray:
    return open_session(write(graph, storage), runtime)(samples)[0]


def executes(runtime: str, graph: IntegerGraph, storage: Mapping[str, str] | None = None) -> bool:
    """Whether a runtime has kernels for all inputs of a graph, as the tables of targets say."""
    return not left_out(graph, storage or {}, runtime)


def exact_runtime(kind: str, dtype: str) -> str | None:
    """The runtime whose kernels the reference is compared with; None where none has one."""
    for runtime in ("litert-reference", "litert", "tflm"):
        if forbidden(runtime, kind, activation_dtype=dtype) is None:
            return runtime
    return None
