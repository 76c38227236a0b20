"""Latency of layers by width: tables that are measured, read from Vela, or given by the user."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import keras

from tfeptq.config import QuantizationConfig
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.progress import progress
from tfeptq.selection.skeleton import rounded
from tflite_export.file.atomic import write_atomically
from tflite_export.graph.structure import IntegerGraph
from tflite_export.targets.operator_latency import OperatorTime, Stopwatch

_COLUMNS = ("operator", "bits", "ms")


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Milliseconds by operator and width of the weights.

    Attributes:
        weighted: (layer name, bits) -> milliseconds of one inference; or (kind such as CONV_2D,
            bits) -> milliseconds per million multiplications.
        others: of all operators without weights, whatever the widths.
    """

    weighted: Mapping[tuple[str, int], float]
    others: float = 0.0

    def layer(self, name: str, *, kind: str, bits: int, multiplications: int) -> float:
        """Milliseconds of one layer, from its own row or that of its operator kind.

        Raises:
            ValueError: the table has neither; says what it has.
        """
        if (name, bits) in self.weighted:
            return self.weighted[name, bits]
        if (kind, bits) in self.weighted:
            return self.weighted[kind, bits] * multiplications / 1e6
        known = ", ".join(f"{row}/{width}" for row, width in sorted(self.weighted))
        raise ValueError(
            f"the latency table has no row for layer {name!r} at {bits} bits, nor for {kind} at "
            f"{bits} bits; it has {known}"
        )


def read_latencies(path: str | Path) -> LatencyTable:
    """Reads a CSV file with the columns operator, bits and ms.

    `operator` is the name of a layer, with the milliseconds of one inference in it, or a kind
    such as CONV_2D, with milliseconds per million multiplications. Rows without bits are operators
    without weights: their times are always there.

    Raises:
        ValueError: no such file, a missing column or a value that is no number; names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"latency table {path}: no such file")
    with path.open(newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        missing = set(_COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise ValueError(
                f"latency table {path}: no column {sorted(missing)}; it needs {', '.join(_COLUMNS)}"
            )
        rows = [_entry(row, f"latency table {path}, line {reader.line_num}") for row in reader]
    weighted = {(name, bits): ms for name, bits, ms in rows if bits is not None}
    return LatencyTable(weighted, sum(ms for _, bits, ms in rows if bits is None))


def _entry(row: Mapping[str, str], where: str) -> tuple[str, int | None, float]:
    try:
        milliseconds = float(row["ms"])
        bits = int(row["bits"]) if row["bits"].strip() else None
        name = row["operator"].strip()
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{where}: {dict(row)} is not (operator, bits, ms): {error}") from error
    if not 0.0 <= milliseconds < float("inf"):
        raise ValueError(f"{where}: ms={milliseconds} must be a time of at least 0")
    return name, bits, milliseconds


def write_latencies(table: LatencyTable, path: str | Path) -> None:
    """Writes what `read_latencies` reads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((name, bits, f"{ms:.6g}") for (name, bits), ms in table.weighted.items())
    writer.writerow(("operators without weights", "", f"{table.others:.6g}"))
    write_atomically(Path(path), text.getvalue().encode())


def measure_latencies(
    model: keras.Model,
    config: QuantizationConfig,
    *,
    times: Callable[[IntegerGraph], Iterable[OperatorTime]] | None = None,
) -> LatencyTable:
    """Times of every layer at every candidate width, without any data.

    Every layer keeps its time whatever the widths of the others: one graph a candidate width is
    enough, in which every layer that can has it.

    Args:
        model: canonical float model.
        config: candidates and target.
        times: of the operators of one graph; by default measured in LiteRT on this computer.
            `tflite_export.packaging.vela.vela_times` reads Vela's estimates.
    """
    times = times or Stopwatch(config.target)
    plan = QuantizationPlan.of(model, config)
    candidates = plan.candidates
    weighted: dict[tuple[str, int], float] = {}
    others: float = 0.0
    for bits in progress(sorted({b for widths in candidates.values() for b in widths}), "latency"):
        widths = {name: bits if bits in has else max(has) for name, has in candidates.items()}
        sums: dict[str, float] = {}
        others = 0.0
        for entry in times(rounded(plan.with_widths(weights=widths))):
            if entry.layer in candidates:
                sums[entry.layer] = sums.get(entry.layer, 0.0) + entry.milliseconds
            else:
                others += entry.milliseconds
        weighted |= {(name, bits): sums[name] for name, has in candidates.items() if bits in has}
    return LatencyTable(weighted, others)
