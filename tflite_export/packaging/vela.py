"""Arm's Vela compiler on a file: memory, cycles, and what it leaves on the CPU.

Vela runs in a process of its own, because it dies on some inputs; see `runtimes.programs` for the
limits of time and memory. Its exit code is 0 even when
nothing reaches the NPU, so the answer is read from its summary and from the file it writes.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import math
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tflite_export.file.atomic import write_atomically
from tflite_export.file.damage import names_damage
from tflite_export.file.reader import content_of, parse
from tflite_export.file.writer import write
from tflite_export.graph.structure import IntegerGraph
from tflite_export.runtimes.programs import run_program
from tflite_export.runtimes.sessions import RuntimeUnavailableError
from tflite_export.targets.containers import plan_storage
from tflite_export.targets.findings import Finding
from tflite_export.targets.operator_latency import OperatorTime

#: As `vela --help` of version 5.2 lists them.
ACCELERATORS = (
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
)
_NPU = "CUSTOM:ethos-u"
_TIMEOUT_SECONDS = 600
_KIBIBYTE = 1024
_REASON = re.compile(r"operator: \w+, ofm: '(?P<tensor>[^']*)'\s*\n(?:Reason: )?(?P<reason>[^\n]+)")
_SOURCE = "Vela's log; `vela --supported-ops-report` lists all constraints"


@dataclasses.dataclass(frozen=True)
class VelaReport:
    """Vela's estimates for one file.

    Attributes:
        sram_bytes, dram_bytes, flash_bytes: memory, by where the memory mode puts things.
        weight_bytes_before, weight_bytes: of the weights before and after Vela's entropy coding.
        cycles, npu_cycles: of one inference, in all and in the NPU.
        tensor_cycles: tensor -> cycles of what computes it, by Vela's own names: an operator that
            Vela splits has several, the longer ones beginning with the tensor's name. They add up
            to `cycles`.
        inference_seconds: of one inference; None where nothing runs on the NPU.
        npu_operators: NPU subgraphs in the compiled file.
        cpu_operators: findings, one an operator left on the CPU, with Vela's reason.
        compiled_bytes: size of the compiled file.
        assumptions: Vela's warnings about the configuration these estimates rest on.
    """

    accelerator: str
    system_config: str
    memory_mode: str
    sram_bytes: int
    dram_bytes: int
    flash_bytes: int
    weight_bytes_before: int
    weight_bytes: int
    macs: int
    cycles: int
    npu_cycles: int
    tensor_cycles: dict[str, int]
    inference_seconds: float | None
    npu_operators: int
    cpu_operators: tuple[Finding, ...]
    compiled_bytes: int
    assumptions: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """All operators run on the NPU."""
        return self.npu_operators > 0 and not self.cpu_operators


@names_damage
def vela_report(
    model: str | Path | bytes,
    *,
    accelerator: str = "ethos-u55-128",
    system_config: str | None = None,
    memory_mode: str | None = None,
    config: str | Path | None = None,
    output: str | Path | None = None,
) -> VelaReport:
    """Compiles a `.tflite` file with Vela and reads what it says.

    Args:
        accelerator: one of `ACCELERATORS`.
        system_config, memory_mode: sections of the configuration file; Vela's defaults otherwise.
        config: Vela's configuration file, e.g. "Arm/vela.ini"; Vela's own otherwise.
        output: where the compiled file goes, if anywhere.

    Raises:
        ValueError: unknown accelerator, or Vela does not compile the file; says how it ended.
        RuntimeUnavailableError: Vela is not installed.
    """
    if accelerator not in ACCELERATORS:
        raise ValueError(
            f"accelerator {accelerator!r} is unknown; allowed are {', '.join(ACCELERATORS)}"
        )
    if importlib.util.find_spec("ethosu") is None:
        raise RuntimeUnavailableError("Vela is not installed: install the extra 'ethos-u'")
    content = content_of(model)
    options = {"config": config, "system-config": system_config, "memory-mode": memory_mode}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = _run(content, folder, accelerator, options)
        compiled = _only(folder.glob("model_vela.tflite"), log).read_bytes()
        with _only(folder.glob("model_summary_*.csv"), log).open(newline="") as file:
            summary = next(csv.DictReader(file))
        cycles = _tensor_cycles(folder / "model_per-layer.csv")
    if output is not None:
        write_atomically(Path(output), compiled)
    return _report(accelerator, summary, cycles, compiled, log)


def _run(
    content: bytes, folder: Path, accelerator: str, options: dict[str, str | Path | None]
) -> str:
    source = folder / "model.tflite"
    source.write_bytes(content)
    command = [sys.executable, "-m", "ethosu.vela", str(source), "--output-dir", str(folder)]
    command += ["--accelerator-config", accelerator, "--show-cpu-operations"]
    command += ["--verbose-performance"]
    for option, value in options.items():
        command += [f"--{option}", str(value)] if value is not None else []
    finished = run_program(command, name="Vela", seconds=_TIMEOUT_SECONDS, file_bytes=len(content))
    if finished.returncode:
        raise ValueError(f"Vela does not compile the file: {_ending(finished)}")
    return finished.stdout + finished.stderr


def _ending(finished: subprocess.CompletedProcess[str]) -> str:
    if finished.returncode < 0:
        name = signal.Signals(-finished.returncode).name
        return (
            f"it ends with {name}; packed weights do that, export them with target='ethos-u', "
            "which stores low-bit weights as int8 for Vela to compress"
        )
    lines = (finished.stderr or finished.stdout).strip().splitlines()
    if lines and "MemoryError" in lines[-1]:
        return f"it needs more memory than it may have ({lines[-1]})"
    return lines[-1] if lines else f"exit code {finished.returncode}"


def _only(paths: Iterable[Path], log: str) -> Path:
    found = sorted(paths)
    if len(found) != 1:
        raise ValueError(f"Vela wrote no result; its log ends with {log[-200:]!r}")
    return found[0]


def _tensor_cycles(path: Path) -> dict[str, int]:
    """Cycles by tensor name from Vela's table of layers; empty where nothing is on the NPU."""
    if not path.exists():
        return {}
    header, *lines = path.read_text().splitlines()
    columns = header.split(",")
    cycles: dict[str, int] = {}
    for line in lines:
        # Vela quotes nothing: what has commas of its own is the last column, the name.
        row = dict(zip(columns, line.split(",", len(columns) - 1), strict=True))
        cycles[row["Name"]] = cycles.get(row["Name"], 0) + int(float(row["Op Cycles"]))
    return cycles


def _report(
    accelerator: str,
    summary: dict[str, str],
    tensor_cycles: dict[str, int],
    compiled: bytes,
    log: str,
) -> VelaReport:
    stored = parse(compiled)
    kinds = [operator.kind for operator in stored.operators]
    seconds = float(summary["inference_time"])
    return VelaReport(
        accelerator=accelerator,
        system_config=summary["system_config"],
        memory_mode=summary["memory_mode"],
        sram_bytes=_bytes(summary, "sram"),
        dram_bytes=_bytes(summary, "dram"),
        flash_bytes=_bytes(summary, "on_chip_flash") + _bytes(summary, "off_chip_flash"),
        weight_bytes_before=int(float(summary["total_original_weights"])),
        weight_bytes=int(float(summary["total_npu_encoded_weights"])),
        macs=int(float(summary["nn_macs"])),
        cycles=int(float(summary["cycles_total"])),
        npu_cycles=int(float(summary["cycles_npu"])),
        tensor_cycles=tensor_cycles,
        inference_seconds=seconds if math.isfinite(seconds) and seconds > 0 else None,
        npu_operators=kinds.count(_NPU),
        cpu_operators=_left_on_the_cpu(compiled, log),
        compiled_bytes=len(compiled),
        assumptions=tuple(line for line in log.splitlines() if line.startswith("Warning: No ")),
    )


def _bytes(summary: dict[str, str], memory: str) -> int:
    """Vela's summary counts memory in KiB."""
    return round(float(summary[f"{memory}_memory_used"]) * _KIBIBYTE)


def _left_on_the_cpu(compiled: bytes, log: str) -> tuple[Finding, ...]:
    stored = parse(compiled)
    reasons = {match["tensor"]: match["reason"] for match in _REASON.finditer(log)}
    findings = []
    for operator in stored.operators:
        if operator.kind == _NPU:
            continue
        name = stored.tensors[operator.outputs[0]].name if operator.outputs else "no output"
        reason = reasons.get(name, "Vela gives no reason")
        findings.append(
            Finding(
                stored.where(operator),
                f"stays on the CPU: {reason}",
                "change the layer, or accept a slower part of the model",
                _SOURCE,
            )
        )
    return tuple(findings)


def vela_times(graph: IntegerGraph, *, target: str, **options: Any) -> list[OperatorTime]:
    """Vela's estimate for every operator of a graph, and one entry for what it names otherwise.

    Args:
        options: see `vela_report`.

    Raises:
        ValueError: an operator stays on the CPU, whose time Vela does not know.
    """
    report = vela_report(write(graph, plan_storage(graph, target)), **options)
    if not report.ok or report.inference_seconds is None:
        left = ", ".join(finding.operator for finding in report.cpu_operators)
        raise ValueError(f"Vela knows no time of operators that stay on the CPU: {left}")
    milliseconds_a_cycle = 1000 * report.inference_seconds / report.cycles
    owners = {operator.outputs[0]: operator for operator in graph.operators}
    cycles = dict.fromkeys(owners, 0)
    for name, count in report.tensor_cycles.items():
        if (owner := _owner(name, owners)) is not None:
            cycles[owner] += count
    rest = report.cycles - sum(cycles.values())
    return [
        *(
            OperatorTime(operator.layer, operator.kind, cycles[name] * milliseconds_a_cycle)
            for name, operator in owners.items()
        ),
        OperatorTime("other", "NPU", rest * milliseconds_a_cycle),
    ]


def _owner(name: str, tensors: Iterable[str]) -> str | None:
    """The tensor itself, or the longest that a derived name of Vela's begins with."""
    found = [tensor for tensor in tensors if name == tensor or name.startswith(f"{tensor}_")]
    return max(found, key=len, default=None)
