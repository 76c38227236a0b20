"""Latency of layers by width, from a table that the user measured."""

from __future__ import annotations

import csv
from pathlib import Path

Table = dict[tuple[str, int], float]


def read_latencies(path: str | Path) -> Table:
    """Reads a CSV file with the columns operator, bits and ms.

    `operator` is the name of a layer, with the milliseconds of one inference in it, or a kind
    such as CONV_2D, with milliseconds per million multiplications.

    Raises:
        ValueError: no such file, a missing column or a value that is no number; names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"latency table {path}: no such file")
    with path.open(newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        missing = {"operator", "bits", "ms"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(
                f"latency table {path}: no column {sorted(missing)}; it needs operator, bits, ms"
            )
        return dict(_entry(row, f"latency table {path}, line {reader.line_num}") for row in reader)


def _entry(row: dict[str, str], where: str) -> tuple[tuple[str, int], float]:
    try:
        milliseconds = float(row["ms"])
        key = (row["operator"].strip(), int(row["bits"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {row} is not (operator, bits, ms): {error}") from error
    if not 0.0 <= milliseconds < float("inf"):
        raise ValueError(f"{where}: ms={milliseconds} must be a time of at least 0")
    return key, milliseconds


def layer_latency(table: Table, *, layer: str, kind: str, bits: int, multiplications: int) -> float:
    """Milliseconds of one layer, from its own row or that of its operator kind."""
    if (layer, bits) in table:
        return table[layer, bits]
    if (kind, bits) in table:
        return table[kind, bits] * multiplications / 1e6
    raise ValueError(
        f"the latency table has no row for layer {layer!r} at {bits} bits, nor for {kind} at "
        f"{bits} bits; it has {', '.join(f'{name}/{width}' for name, width in sorted(table))}"
    )
