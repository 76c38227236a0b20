"""From a quantized model to a verified file."""

from __future__ import annotations

import dataclasses
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tflite_export import targets
from tflite_export import verify as verification
from tflite_export.file import ends
from tflite_export.file.atomic import tflite_destination, write_atomically
from tflite_export.file.packing import CONTAINER_BITS
from tflite_export.file.reader import parse
from tflite_export.file.writer import write
from tflite_export.graph.kinds import is_weighted, weights_of
from tflite_export.graph.proofs import prove
from tflite_export.graph.structure import IntegerGraph, Operator
from tflite_export.graph.validation import validated
from tflite_export.packaging.end_types import check_ends, require_convertible, with_ends
from tflite_export.runtimes import isolation
from tflite_export.targets import wide_softmax
from tflite_export.targets.checks import static_findings
from tflite_export.targets.containers import plan_storage
from tflite_export.targets.findings import Finding
from tflite_export.verify import Verification


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One operator of the file.

    Attributes:
        name: Keras layer it comes from.
        kind: builtin operator name.
        weight_bits: learned width, None without weights.
        activation_bits: width of its layer's output; an operator whose result is clamped to fewer
            codes has the width of the clamped tensor.
        container: type in which its weights are stored, None without weights.
        weight_bytes: of its weights in the file, without scales and bias.
    """

    name: str
    kind: str
    weight_bits: int | None
    activation_bits: int
    container: str | None
    weight_bytes: int


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """A written file.

    Attributes:
        verification: None when it was asked not to verify.
        findings: rules of the target that the file breaks, though it is right: for "coral" the
            documented reasons why operators stay on the CPU. None: no known blocker.
        notes: what a reader of the widths should know, one sentence each.
        gzip_bytes: size of the file as gzip packs it, as an update over the air would: zeros of
            pruned and repetitions of clustered weights show there.
    """

    path: Path
    size_bytes: int
    layers: tuple[LayerReport, ...]
    verification: Verification | None
    target: str
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    gzip_bytes: int | None = None


def export(
    model: Any,
    path: str | Path,
    *,
    target: str | None = None,
    samples: Any = None,
    verify: bool = True,
    input_type: str | None = None,
    output_type: str | None = None,
) -> ExportResult:
    """Writes a fully integer TensorFlow Lite file; it appears only after it has been verified.

    Args:
        model: an `IntegerGraph`, or anything with `freeze() -> IntegerGraph` (what
            `tfeptq.quantize` returns).
        path: of the file; replaced atomically.
        target: "android", "coral", "ethos-u" or "microcontroller"; by default the one that `model`
            was quantized for.
        samples: a few inputs to verify on, one array (N, ...) a model input, floats or the file's
            integers; random integers by default.
        verify: read the file back, run it and compare every operator with the integer reference.
        input_type, output_type: of all inputs or outputs: "uint8" instead of int8, or "float32"
            for "android"; see `tflite_export.packaging.end_types`. None: the graph's own.

    Raises:
        ValueError: the target cannot store or execute a layer as it was quantized, or there is
            none; or some inputs would overflow what its kernels hold.
        VerificationError: what the file computes is not what was learned; no file is left.

    Example:
        >>> result = tflite_export.export(quantized, "m.tflite", target="android")
        >>> [(layer.name, layer.weight_bits, layer.container) for layer in result.layers]
        [('first', 8, 'int8'), ('middle', 4, 'int4'), ('last', 8, 'int8')]
        >>> result.verification is not None
        True
    """
    path = tflite_destination(path)
    _require_quantized(model)
    target = _target(model, target)
    check_ends(target, input_type, output_type)
    runtimes = targets.capabilities(target).runtimes
    if verify:
        isolation.start(*runtimes)
    graph = validated(model if isinstance(model, IntegerGraph) else model.freeze())
    require_convertible(graph, input_type, output_type)
    graph = prove(validated(wide_softmax.executable(graph, target)), runtimes=runtimes)
    storage = plan_storage(graph, target)
    content = write(graph, storage)
    proof = _verified(content, graph, storage, target, samples) if verify else None
    content = with_ends(content, target, input_type=input_type, output_type=output_type)
    write_atomically(path, content)
    layers = _layer_reports(graph, storage)
    findings = static_findings(parse(content), target)
    packed = len(gzip.compress(content, compresslevel=6, mtime=0))
    notes = _notes(layers)
    return ExportResult(path, len(content), layers, proof, target, findings, notes, packed)


def _require_quantized(model: Any) -> None:
    if isinstance(model, IntegerGraph) or callable(getattr(model, "freeze", None)):
        return
    raise ValueError(
        f"export writes quantized models, received a {type(model).__name__}: quantize it first, "
        "export(tfeptq.quantize(model, samples, config), path)"
    )


def _target(model: Any, asked: str | None) -> str:
    """The target asked for, or the one that the model knows."""
    target = asked if asked is not None else getattr(model, "target", None)
    if target is None:
        raise ValueError(
            f"a {type(model).__name__} does not know what it was quantized for: "
            f"pass target=, one of {', '.join(map(repr, targets.TARGETS))}"
        )
    targets.capabilities(target)
    return target


def _verified(
    content: bytes, graph: IntegerGraph, storage: Mapping[str, str], target: str, samples: Any
) -> Verification:
    integers = None if samples is None else _integer_samples(graph, samples)
    return verification.verify(content, graph, storage=storage, target=target, samples=integers)


def _integer_samples(graph: IntegerGraph, samples: Any) -> list[np.ndarray]:
    arrays = list(samples) if isinstance(samples, (list, tuple)) else [samples]
    if len(arrays) != len(graph.inputs):
        raise ValueError(f"samples hold {len(arrays)} arrays, the model takes {len(graph.inputs)}")
    return [
        _integers(np.asarray(array), graph, name)
        for array, (_, name) in zip(arrays, graph.inputs, strict=True)
    ]


def _integers(values: np.ndarray, graph: IntegerGraph, name: str) -> np.ndarray:
    tensor = graph.tensors[name]
    if values.shape[1:] != tensor.shape[1:] or not len(values):
        raise ValueError(
            f"samples of input {name!r} are {values.shape}, need "
            f"(N, {', '.join(map(str, tensor.shape[1:]))})"
        )
    return ends.integers(
        values,
        where=f"samples of input {name!r}",
        dtype=np.dtype(tensor.dtype),
        scale=tensor.quantization.scale[0],
        zero_point=tensor.quantization.zero_point,
    )


def _layer_reports(graph: IntegerGraph, storage: Mapping[str, str]) -> tuple[LayerReport, ...]:
    last = _call_ends(graph)
    return tuple(
        _layer_report(op, graph, storage, graph.tensors[last[op.outputs[0]]].bits)
        for op in graph.operators
    )


def _call_ends(graph: IntegerGraph) -> dict[str, str]:
    """Tensor that an operator writes -> the one in which that call of its layer ends.

    Behind a layer's own operator may stand others that clamp or requantize for it. A layer that is
    called several times has operators of the same kind, which belong to other calls.
    """
    last: dict[str, str] = {}
    readers = {(op.layer, name): op for op in graph.operators for name in op.inputs}
    for op in reversed(graph.operators):
        own = op.outputs[0]
        reader = readers.get((op.layer, own))
        goes_on = reader is not None and reader.kind != op.kind and not is_weighted(reader.kind)
        last[own] = last[reader.outputs[0]] if reader is not None and goes_on else own
    return last


def _layer_report(
    operator: Operator, graph: IntegerGraph, storage: Mapping[str, str], bits: int
) -> LayerReport:
    weights = weights_of(operator, graph.tensors)
    if weights is None:
        return LayerReport(operator.layer, operator.kind, None, bits, None, 0)
    container = storage[weights.name]
    stored = -(-int(np.prod(weights.shape)) * CONTAINER_BITS[container] // 8)
    return LayerReport(operator.layer, operator.kind, weights.bits, bits, container, stored)


def _notes(layers: Sequence[LayerReport]) -> tuple[str, ...]:
    narrow = sorted({layer.activation_bits for layer in layers if layer.activation_bits < 8})
    if not narrow:
        return ()
    return (
        f"activations of {', '.join(map(str, narrow))} bits are int8 tensors with fewer codes: "
        "exact in every runtime, but no runtime of today is smaller or faster with them",
    )
