"""What a report says about a file on its target, measured with the target's own tools."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

from tflite_export.file.reader import parse, read_bytes
from tflite_export.packaging import CompressionError, compress, memory_budget, vela_report
from tflite_export.packaging.c_source import resolver_methods
from tflite_export.runtimes.sessions import RuntimeUnavailableError
from tflite_export.targets.android import android_report
from tflite_export.targets.checks import Finding, check


@dataclasses.dataclass
class TargetSection:
    """A titled list of facts, and what stands in the way.

    Attributes:
        facts: (what, value) rows.
        findings: rules that the file breaks; None: nothing was looked for.
        remarks: warnings and what could not be measured, one sentence each.
    """

    title: str
    facts: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    findings: tuple[Finding, ...] | None = None
    remarks: list[str] = dataclasses.field(default_factory=list)


def target_section(file: Path, target: str) -> TargetSection:
    """Measures a `.tflite` file for "android", "coral", "ethos-u" or "microcontroller".

    Of other targets there is nothing to measure. Tools that are not installed, or that refuse the
    file, are named in the remarks.
    """
    section = TargetSection(f"Target {target}")
    try:
        if target in _BY_TARGET:
            _BY_TARGET[target](file, section)
    except (RuntimeUnavailableError, ValueError) as error:
        section.remarks.append(f"not measured: {error}")
    return section


def _android(file: Path, section: TargetSection) -> None:
    report = android_report(file)
    delegation, latency = report.delegation, report.latency
    section.facts += [
        ("operators that XNNPACK takes", f"{delegation.delegated} of {delegation.operators}"),
        ("in parts", str(delegation.partitions)),
        ("left to built-in kernels", ", ".join(delegation.left) or "none"),
        (
            "latency on one thread of this computer",
            f"{latency.minimum:.3f} ms at best, {latency.median:.3f} ms median of {latency.runs}",
        ),
        ("tflite-runtime 2.14", "; ".join(report.tflite_runtime_obstacles) or "no known obstacle"),
    ]
    if report.latency_in_bytes is not None:
        section.facts.append(
            (
                "the same weights in 8-bit containers",
                f"{report.latency_in_bytes.minimum:.3f} ms at best: {report.slower_by:.1f} times "
                "as fast",
            )
        )
    section.remarks += report.warnings


def _coral(file: Path, section: TargetSection) -> None:
    result = check(file, target="coral")
    section.findings = result.findings
    if result.compiler is None:
        section.remarks.append(
            "static rules only: the Edge TPU compiler is not on the PATH, and it alone knows"
        )
        return
    compiler = result.compiler
    section.facts += [
        ("Edge TPU compiler", compiler.version),
        ("operators on the Edge TPU", str(compiler.operators_on_tpu)),
        ("operators on the CPU", str(compiler.operators_on_cpu)),
        ("parameters cached on chip", f"{compiler.cached_bytes:,} bytes"),
        ("parameters streamed", f"{compiler.streamed_bytes:,} bytes"),
    ]


def _ethos_u(file: Path, section: TargetSection) -> None:
    report = vela_report(file)
    milliseconds = 1000 * (report.inference_seconds or 0)
    section.facts += [
        ("Vela for", f"{report.accelerator}, {report.system_config}, {report.memory_mode}"),
        ("flash", f"{report.flash_bytes:,} bytes"),
        ("SRAM", f"{report.sram_bytes:,} bytes"),
        (
            "weights before and after Vela's coding",
            f"{report.weight_bytes_before:,} and {report.weight_bytes:,} bytes",
        ),
        ("cycles", f"{report.cycles:,}"),
        ("inference, Vela's estimate", f"{milliseconds:.3f} ms"),
    ]
    section.findings = report.cpu_operators
    section.remarks += report.assumptions


def _microcontroller(file: Path, section: TargetSection) -> None:
    memory = memory_budget(file)
    operators = resolver_methods(parse(read_bytes(file)))
    section.facts += [
        ("flash", f"{memory.flash:,} bytes, and the code of the operators"),
        ("of it weights", f"{memory.weights:,} bytes"),
        ("biases", f"{memory.biases:,} bytes"),
        ("scales and zero points", f"{memory.parameters:,} bytes"),
        ("structure", f"{memory.structure:,} bytes"),
        ("RAM: tensor arena", f"{memory.arena.total:,} bytes"),
        ("of it activations and scratch", f"{memory.arena.reused:,} bytes"),
        ("persistent", f"{memory.arena.persistent:,} bytes"),
        ("operators", ", ".join(operators)),
    ]
    section.remarks.append("the arena is measured with portable kernels on a 64-bit computer")
    with tempfile.TemporaryDirectory() as folder:
        try:
            packed = compress(file, Path(folder) / "model.tflite")
        except CompressionError as error:
            section.remarks.append(f"no look-up tables: {error}")
            return
    section.facts += [
        (
            "with look-up tables (tfeptq package --compress)",
            f"{packed.size_bytes:,} bytes of flash, {packed.arena_bytes:,} bytes of arena, "
            f"{len(packed.tensors)} tensors in tables",
        )
    ]


#: Targets with tools of their own.
_BY_TARGET: dict[str, Callable[[Path, TargetSection], None]] = {
    "android": _android,
    "coral": _coral,
    "ethos-u": _ethos_u,
    "microcontroller": _microcontroller,
}
