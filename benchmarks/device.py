"""What a device makes of our files and of the peers': time, memory, delegated operators.

    python -m benchmarks.device [--models resnet8 dscnn mobilenetv2@96] [--rounds 5]

Of one model in one run: TFLiteConverter's and ai-edge-quantizer's files and ours, rounded to
nearest. Milliseconds are of LiteRT with XNNPACK on one thread of this computer: the files take
turns, the median of their best times is shown, with the spread of the turns, as a ratio to
TFLiteConverter's. The arena is TFLM's. `--figures` leaves the times out, for a busy computer.
Depthwise convolutions of ai-edge-quantizer's files of 4 bits compute in floats.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import tfeptq
import tflite_export
from benchmarks.conversions import task_of
from benchmarks.models import Task
from benchmarks.peers import ENVIRONMENT, ai_edge_python, peer_files
from tfeptq.report.tables import show
from tflite_export.runtimes.latency import latency
from tflite_export.runtimes.tflm import arena_bytes
from tflite_export.targets.android import Delegation, delegation

SAMPLES = 64


@dataclasses.dataclass(frozen=True)
class Measured:
    """One file on this computer.

    Attributes:
        times: best milliseconds of an inference, of every turn.
        arena: bytes; None where TFLM does not run the file.
    """

    method: str
    bits: str
    size_bytes: int
    delegation: Delegation
    arena: int | None
    times: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.times)


def our_files(task: Task, samples: np.ndarray, folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Method, widths and file: of one width each, and of what a bound of milliseconds leaves."""
    settings: dict[str, Callable[[], dict[str, object]]] = {
        "8": lambda: {"weight_bits": 8},
        # As the peer has it.
        "4": lambda: {"weight_bits": 4, "first_last_bits": None},
        "4, ends 8": lambda: {"weight_bits": 4},
        "4 or 8, as fast as 8": lambda: _bounded(task),
    }
    for index, (name, made) in enumerate(settings.items()):
        config = tfeptq.QuantizationConfig(rounding="nearest", target="android", **made())
        try:
            quantized = tfeptq.quantize(task.model, samples, config, verbose=0)
        except ValueError as error:
            # Where no layer is as fast with 4 bits, nothing can be smaller and as fast.
            print(f"{task.name}, {name}: {error}")
            continue
        path = folder / f"ours_{index}.tflite"
        tflite_export.export(quantized, path, verify=False)
        yield "tfeptq", name, path


def _bounded(task: Task) -> dict[str, object]:
    """The fewest bytes of 4 or 8 bits at the milliseconds of 8 bits, by the package's table."""
    candidates = (4, 8)
    config = tfeptq.QuantizationConfig(
        weight_bits=candidates, sensitivity="label_free", samples=SAMPLES, rounding="nearest"
    )
    points = tfeptq.pareto_frontier(
        task.model, task.calibration[:SAMPLES], config, cost="latency_ms", verbose=0
    )
    widest = points[-1].costs
    return {
        "weight_bits": candidates,
        "sensitivity": "label_free",
        "measured_moves": 0,
        "budget": tfeptq.Budget(
            latency_ms=widest["latency_ms"] * 1.001, weight_bytes=int(widest["weight_bytes"]) - 1
        ),
    }


def measured(files: Sequence[tuple[str, str, Path]], rounds: int) -> list[Measured]:
    """All files, taking turns."""
    contents = [path.read_bytes() for _, _, path in files]
    times: list[list[float]] = [[] for _ in files]
    for _ in range(rounds):
        for content, taken in zip(contents, times, strict=True):
            taken.append(latency(content, runs=100, seconds=2.0).minimum)
    return [
        Measured(
            method,
            bits,
            len(content),
            delegation(content),
            _arena(content),
            taken,
        )
        for (method, bits, _), content, taken in zip(files, contents, times, strict=True)
    ]


def _arena(content: bytes) -> int | None:
    try:
        return arena_bytes(content)
    except ValueError:
        return None


def table(name: str, found: Sequence[Measured]) -> None:
    base = found[0].median if found[0].times else 1.0
    rows = []
    for row in found:
        spread = f"{min(row.times):.3f} to {max(row.times):.3f}" if row.times else ""
        rows.append(
            (
                row.method,
                row.bits,
                f"{row.size_bytes:,}",
                f"{row.delegation.delegated} of {row.delegation.operators}",
                row.delegation.partitions,
                f"{row.arena:,}" if row.arena else "no",
                f"{row.median:.3f}" if row.times else "",
                spread,
                f"{row.median / base:.2f}" if row.times else "",
            )
        )
    columns = ("file", "bits", "bytes", "XNNPACK", "parts", "TFLM arena", "ms", "spread", "ratio")
    show(f"{name}, LiteRT on one thread", columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet8", "dscnn", "mobilenetv2@96"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--figures", action="store_true", help="no times")
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT)
    arguments = parser.parse_args()
    python = ai_edge_python(arguments.environment)
    for name in arguments.models:
        task = task_of(name, SAMPLES)
        samples = task.calibration[:SAMPLES]
        with tempfile.TemporaryDirectory() as folder:
            theirs = [
                (method, str(bits), path)
                for method, bits, path in peer_files(task, samples, Path(folder), python)
            ]
            files = [*theirs, *our_files(task, samples, Path(folder))]
            rounds = 0 if arguments.figures else arguments.rounds
            table(name, measured(files, rounds))


if __name__ == "__main__":
    main()
