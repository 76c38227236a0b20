"""Static rules of a target, applied to any TensorFlow Lite file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tflite_export import targets
from tflite_export.graph import WEIGHTED
from tflite_export.reader import StoredModel, StoredOperator, StoredTensor, parse, read_bytes


@dataclasses.dataclass(frozen=True)
class Finding:
    """One rule that a file breaks: where, which rule, what to do, and who says so."""

    operator: str
    rule: str
    advice: str
    source: str = ""


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """`ok` means that no blocker is known, not that the target's compiler accepts the file."""

    ok: bool
    findings: tuple[Finding, ...]


def check(path: str | Path, *, target: str) -> CheckResult:
    """Compares a file with the capability table of a target.

    Raises:
        ValueError: unknown target, or a file that cannot be read.
    """
    targets.capabilities(target)
    model = parse(read_bytes(path))
    findings = [
        finding for operator in model.operators for finding in _check(operator, model, target)
    ]
    if model.subgraphs > 1:
        findings.append(
            Finding(
                "model", f"has {model.subgraphs} subgraphs", "export a model without control flow"
            )
        )
    return CheckResult(not findings, tuple(findings))


def _check(operator: StoredOperator, model: StoredModel, target: str) -> list[Finding]:
    outputs = [model.tensors[index] for index in operator.outputs if index >= 0]
    where = f"{operator.kind} ({outputs[0].name if outputs else 'no output'})"
    inputs = [model.tensors[index] for index in operator.inputs if index >= 0]
    floats = [tensor for tensor in (*inputs, *outputs) if tensor.type.startswith("float")]
    if floats:
        return [
            Finding(
                where, f"tensor {floats[0].name!r} is {floats[0].type}", "quantize the model fully"
            )
        ]
    dynamic = [tensor for tensor in outputs if any(size < 1 for size in tensor.shape)]
    if dynamic or (outputs and outputs[0].shape and outputs[0].shape[0] != 1):
        return [Finding(where, f"output shape {outputs[0].shape}", "fix all sizes, batch 1")]
    if not inputs:
        return []
    weights = inputs[1] if operator.kind in WEIGHTED and len(inputs) > 1 else None
    problem = targets.check_operator(
        target,
        operator.kind,
        activation_dtype=inputs[0].type,
        container=weights.type if weights else None,
        per_channel=bool(weights and weights.scale is not None and weights.scale.size > 1),
        rescales=bool(outputs) and _parameters(inputs[0]) != _parameters(outputs[0]),
    )
    if problem is None:
        return []
    return [Finding(where, problem, targets.capabilities(target).advice)]


def _parameters(tensor: StoredTensor) -> tuple[list[float], list[int]]:
    """Scales and zero points, comparable."""
    scale, zero_point = tensor.scale, tensor.zero_point
    return (
        [] if scale is None else scale.tolist(),
        [] if zero_point is None else zero_point.tolist(),
    )
