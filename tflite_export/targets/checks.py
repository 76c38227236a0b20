"""Static rules of a target, applied to any TensorFlow Lite file."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

from tflite_export import targets
from tflite_export.file.damage import names_damage, names_path
from tflite_export.file.reader import parse, read_bytes
from tflite_export.file.stored import StoredModel, StoredOperator, StoredTensor
from tflite_export.graph.kinds import WEIGHTS
from tflite_export.operators.rescaling import DEQUANTIZE, QUANTIZE
from tflite_export.targets import edgetpu_compiler
from tflite_export.targets.capabilities import module_name
from tflite_export.targets.findings import Finding

__all__ = ["CheckResult", "Finding", "check", "static_findings"]

#: Expands the weights of files that `packaging.compress` made.
_DECODE = "CUSTOM:TFLM_DECODE"


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """`ok` means that no blocker is known, not that the target's compiler accepts the file.

    Attributes:
        compiler: what the target's own compiler said, where it is installed and takes part.
    """

    ok: bool
    findings: tuple[Finding, ...]
    compiler: edgetpu_compiler.EdgeTpuReport | None = None


@names_path
def check(path: str | Path, *, target: str) -> CheckResult:
    """Compares a file with the rules of a target.

    For "coral" these are the documented requirements of the Edge TPU, and the Edge TPU compiler's
    own log if that program is on the PATH; for others the capability table, and for "ethos-u" what
    Vela leaves on the CPU as well.

    Raises:
        ValueError: unknown target, or a file that cannot be read.

    Example:
        >>> result = tflite_export.check("m.tflite", target="coral")
        >>> result.ok, [finding.operator for finding in result.findings]
        (False, ['FULLY_CONNECTED (middle)'])
    """
    compiler = targets.capabilities(target).compiler
    content = read_bytes(path)
    found = static_findings(parse(content), target)
    report, more = _compiled(content) if compiler == "edgetpu" else (None, ())
    found = (*found, *more)
    return CheckResult(not found, found, report)


@names_damage
def static_findings(model: StoredModel, target: str) -> tuple[Finding, ...]:
    """What the rules of a target say about a file, without any compiler."""
    return (*_of_the_model(model), *_of_the_target(model, target))


def _of_the_model(model: StoredModel) -> list[Finding]:
    if model.subgraphs <= 1:
        return []
    advice = "export a model without control flow"
    return [Finding("model", f"has {model.subgraphs} subgraphs", advice)]


def _of_the_target(model: StoredModel, target: str) -> list[Finding]:
    own = importlib.import_module(f"{__package__}.{module_name(target)}").findings(model)
    if targets.capabilities(target).only_own_rules:
        return list(own)
    found = [finding for operator in model.operators for finding in _check(operator, model, target)]
    return [*found, *own]


def _compiled(
    content: bytes,
) -> tuple[edgetpu_compiler.EdgeTpuReport | None, tuple[Finding, ...]]:
    """The Edge TPU compiler's report, and what it leaves on the CPU or says against the file."""
    try:
        report = edgetpu_compiler.compile_report(content)
    except ValueError as error:
        refusal = Finding("model", str(error), "read the rules", edgetpu_compiler.PROGRAM)
        return None, (refusal,)
    return report, report.unmapped if report else ()


def _check(operator: StoredOperator, model: StoredModel, target: str) -> list[Finding]:
    table = targets.capabilities(target)
    if operator.kind == _DECODE and table.reads_tables:
        return []
    ends = ("uint8", "float32") if table.takes_float_ends else ("uint8",)
    if _converts_an_end(operator, model, ends):
        return []
    inputs, outputs = model.read_by(operator), model.written_by(operator)
    where = model.where(operator)
    floats = [tensor for tensor in (*inputs, *outputs) if tensor.type.startswith("float")]
    if floats:
        rule = f"tensor {floats[0].name!r} is {floats[0].type}"
        return [Finding(where, rule, "quantize the model fully")]
    dynamic = [tensor for tensor in outputs if any(size < 1 for size in tensor.shape)]
    if dynamic or (outputs and outputs[0].shape and outputs[0].shape[0] != 1):
        return [Finding(where, f"output shape {outputs[0].shape}", "fix all sizes, batch 1")]
    source, weights = model.source(operator), model.operand(operator, WEIGHTS)
    if source is None:
        return []
    problem = targets.check_operator(
        target,
        operator.kind,
        activation_dtype=source.type,
        container=weights.type if weights else None,
        per_channel=weights is not None and weights.per_channel,
        rescales=bool(outputs) and _parameters(source) != _parameters(outputs[0]),
        rank=max(len(tensor.shape) for tensor in (*inputs, *outputs)),
        inputs=len(inputs),
    )
    if problem is None:
        return []
    evidence = f"capability table of {table.title}, measured"
    return [Finding(where, problem, table.advice, evidence)]


def _converts_an_end(
    operator: StoredOperator, model: StoredModel, allowed: tuple[str, ...]
) -> bool:
    """What `packaging.end_types` adds: a network's ends in another type, integers inside."""
    if operator.kind not in (QUANTIZE.name, DEQUANTIZE):
        return False
    if len(operator.inputs) != 1 or len(operator.outputs) != 1:
        return False
    ends = {*model.inputs, *model.outputs}
    types = {
        index in ends: model.tensors[index].type for index in (*operator.inputs, *operator.outputs)
    }
    return types.get(True) in allowed and types.get(False) in ("int8", "int16")


def _parameters(tensor: StoredTensor) -> tuple[list[float], list[int]]:
    """Scales and zero points, comparable."""
    scale, zero_point = tensor.scale, tensor.zero_point
    return (
        [] if scale is None else scale.tolist(),
        [] if zero_point is None else zero_point.tolist(),
    )
