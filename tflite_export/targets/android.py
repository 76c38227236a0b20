"""What an Android app can expect of a file: delegation, speed, older runtimes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tflite_export.file.as_graph import to_graph
from tflite_export.file.damage import names_damage
from tflite_export.file.reader import content_of, parse
from tflite_export.file.stored import StoredModel, StoredOperator
from tflite_export.file.writer import write
from tflite_export.graph.kinds import WEIGHTS
from tflite_export.runtimes import litert
from tflite_export.runtimes.isolation import guarded
from tflite_export.runtimes.latency import Latency, latency
from tflite_export.targets import tflite_runtime
from tflite_export.targets.capabilities import capabilities
from tflite_export.targets.findings import Finding

_DELEGATE = "DELEGATE"


def findings(model: StoredModel) -> list[Finding]:
    """LiteRT wants as many zero points as scales; TFLM does not count them."""
    return [
        Finding(
            f"tensor {tensor.name!r}",
            f"has {tensor.zero_point.size} zero points for {tensor.scale.size} scales, which "
            "LiteRT refuses",
            "compressed files run in TFLM only: take the file as it was before",
            "LiteRT's check when it loads a file, measured",
        )
        for tensor in model.tensors
        if tensor.scale is not None
        and tensor.zero_point is not None
        and tensor.zero_point.size != tensor.scale.size
    ]


@dataclasses.dataclass(frozen=True)
class Delegation:
    """How many operators XNNPACK takes.

    Attributes:
        left: "KIND (output tensor)" of the operators that stay with the built-in kernels.
        partitions: pieces that XNNPACK executes in one go; data is handed over between them.
    """

    operators: int
    delegated: int
    left: tuple[str, ...]
    partitions: int


@dataclasses.dataclass(frozen=True)
class AndroidReport:
    """Everything about one file.

    Attributes:
        latency: on this computer's processor, not a phone's.
        tflite_runtime_obstacles: what is known to fail in tflite-runtime 2.14; empty: nothing.
        warnings: what is smaller but slower.
        latency_in_bytes: of the same weights in 8-bit containers, where packed ones are slower.
    """

    size_bytes: int
    delegation: Delegation
    latency: Latency
    tflite_runtime_obstacles: tuple[str, ...]
    warnings: tuple[str, ...]
    latency_in_bytes: Latency | None = None

    @property
    def slower_by(self) -> float | None:
        """How many times slower packed weights are here than the same in bytes, at best times."""
        if self.latency_in_bytes is None:
            return None
        return self.latency.minimum / self.latency_in_bytes.minimum


@names_damage
def android_report(model: str | Path | bytes) -> AndroidReport:
    """Measures a `.tflite` file in LiteRT with XNNPACK on this computer.

    Raises:
        ValueError: LiteRT refuses the file, or dies of it.
    """
    content = content_of(model)
    return guarded(content, "litert", _report, content)


def _report(content: bytes) -> AndroidReport:
    stored = parse(content)
    unpacked = _in_bytes(stored)
    return AndroidReport(
        len(content),
        delegation(content),
        latency(content),
        tflite_runtime.obstacles(stored),
        _warnings(stored),
        None if unpacked is None else latency(unpacked),
    )


def _in_bytes(model: StoredModel) -> bytes | None:
    """The same file with a byte a weight, where packing makes it slower.

    None as well where a file holds what an integer graph cannot: operators in float, say.
    """
    if not any(_is_slower(operator, model) for operator in model.operators):
        return None
    try:
        return write(to_graph(model))
    except ValueError:
        return None


def delegation(model: str | Path | bytes) -> Delegation:
    """Counts the operators that XNNPACK takes, one delegate kernel an operator.

    Raises:
        ValueError: LiteRT refuses the file, or dies of it.
    """
    content = content_of(model)
    return guarded(content, "litert", _delegation, content)


def _delegation(content: bytes) -> Delegation:
    single = _operators(content, fused=False)
    taken = {
        index for entry in single if entry["op_name"] == _DELEGATE for index in entry["outputs"]
    }
    own = [entry for entry in single if entry["op_name"] != _DELEGATE]
    names = [tensor.name for tensor in parse(content).tensors]
    left = [entry for entry in own if not taken.issuperset(entry["outputs"])]
    fused = _operators(content, fused=True)
    return Delegation(
        len(own),
        len(own) - len(left),
        tuple(f"{entry['op_name']} ({names[entry['outputs'][0]]})" for entry in left),
        sum(entry["op_name"] == _DELEGATE for entry in fused),
    )


def _operators(content: bytes, *, fused: bool) -> list[dict[str, Any]]:
    """LiteRT's plan: the file's operators, then the delegate kernels that replace some."""
    interpreter = litert.interpreter(content, experimental_disable_delegate_node_fusion=not fused)
    # No public call lists operators; the test of this module fails should this one vanish.
    return interpreter._get_ops_details()


def _is_slower(operator: StoredOperator, model: StoredModel) -> bool:
    weights = model.operand(operator, WEIGHTS)
    if weights is None or operator.kind not in capabilities("android").slower_when_packed:
        return False
    return weights.type in ("int4", "int2")


def _warnings(model: StoredModel) -> tuple[str, ...]:
    packed = sum(_is_slower(operator, model) for operator in model.operators)
    wide = any(tensor.type == "int16" for tensor in model.tensors)
    warnings = []
    if packed:
        warnings.append(
            f"{packed} convolution{'s' if packed > 1 else ''} with 4-bit weights: smaller, but "
            "XNNPACK does not take them; measured 2.5 times (pointwise only) to 6.5 times (all) "
            "slower than int8"
        )
    if wide:
        warnings.append(
            "int16 activations: XNNPACK does not take them; measured about 100 times slower "
            "than int8"
        )
    return tuple(warnings)
