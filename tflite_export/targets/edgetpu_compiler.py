"""Google's Edge TPU compiler on a file, where it is installed."""

from __future__ import annotations

import dataclasses
import re
import shutil
import tempfile
from pathlib import Path

from tflite_export.runtimes.programs import run_program
from tflite_export.targets.findings import Finding

PROGRAM = "edgetpu_compiler"
_MAPPED = "Mapped to Edge TPU"
_TIMEOUT_SECONDS = 300
_VERSION = re.compile(r"Edge TPU Compiler version (\S+)")
_ON_TPU = re.compile(r"operations that will run on Edge TPU: (\d+)")
_ON_CPU = re.compile(r"operations that will run on CPU: (\d+)")
_SIZE = r"([\d.]+)(B|KiB|MiB|GiB)"
_CACHED = re.compile(rf"On-chip memory used for caching model parameters: {_SIZE}")
_STREAMED = re.compile(rf"Off-chip memory used for streaming uncached model parameters: {_SIZE}")
_ROW = re.compile(r"^(?P<kind>[A-Z][A-Z0-9_]+)\s+(?P<count>\d+)\s+(?P<status>\S.*?)\s*$", re.M)
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@dataclasses.dataclass(frozen=True)
class EdgeTpuReport:
    """What the compiler says of one file.

    Attributes:
        cached_bytes, streamed_bytes: parameters in on-chip memory, and fetched at each inference.
        unmapped: findings, one a kind of operator and reason, of what runs on the CPU.
    """

    version: str
    operators_on_tpu: int
    operators_on_cpu: int
    cached_bytes: int
    streamed_bytes: int
    unmapped: tuple[Finding, ...]


def compile_report(content: bytes) -> EdgeTpuReport | None:
    """Compiles a file; None where the compiler is not on the PATH.

    Raises:
        ValueError: the compiler refuses the file, with its last line.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.tflite"
        source.write_bytes(content)
        finished = run_program(
            [program, "-s", "-o", folder, str(source)],
            name=PROGRAM,
            seconds=_TIMEOUT_SECONDS,
            file_bytes=len(content),
        )
    log = finished.stdout + finished.stderr
    if finished.returncode or not _ROW.search(log):
        lines = log.strip().splitlines() or ["no message"]
        raise ValueError(f"{PROGRAM} does not compile the file: {lines[-1]}")
    return parse_log(log)


def parse_log(log: str) -> EdgeTpuReport:
    """Reads what `edgetpu_compiler -s` prints."""
    version = _VERSION.search(log)
    name = f"{PROGRAM} {version.group(1) if version else 'of unknown version'}"
    rows = list(_ROW.finditer(log))
    unmapped = tuple(
        Finding(
            row["kind"],
            f"{row['count']} on the CPU: {row['status']}",
            "see the compiler's log for what it wants",
            name,
        )
        for row in rows
        if row["status"] != _MAPPED
    )
    on_tpu = sum(int(row["count"]) for row in rows if row["status"] == _MAPPED)
    on_cpu = sum(int(row["count"]) for row in rows if row["status"] != _MAPPED)
    return EdgeTpuReport(
        version.group(1) if version else "",
        _count(_ON_TPU, log, on_tpu),
        _count(_ON_CPU, log, on_cpu),
        _bytes(_CACHED, log),
        _bytes(_STREAMED, log),
        unmapped,
    )


def _count(pattern: re.Pattern[str], log: str, default: int) -> int:
    found = pattern.search(log)
    return int(found.group(1)) if found else default


def _bytes(pattern: re.Pattern[str], log: str) -> int:
    found = pattern.search(log)
    return round(float(found.group(1)) * _UNITS[found.group(2)]) if found else 0
