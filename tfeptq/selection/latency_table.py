"""Latency of layers by width, as a table: measured, read from Vela, or given by the user."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from tflite_export.file.atomic import write_atomically
from tflite_export.file.text import text_of

_COLUMNS = ("operator", "bits", "ms")
#: Integer type in which kernels compute; a table of one type only has no such column.
_TYPE = "activations"
_TYPES = ("int8", "int16")
_OTHERS = "operators without weights"
#: Type of the kernel or nothing, operator, bits or None, milliseconds.
_Row = tuple[str, str, int | None, float]


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Milliseconds by operator and width of the weights.

    Attributes:
        weighted: (layer name, bits) -> milliseconds of one inference; or (kind such as CONV_2D,
            bits) -> milliseconds per million multiplications.
        others: of all operators without weights, whatever the widths.
        layers: layer name -> milliseconds of its own operator without weights, in tables of a type.
        by_type: "int8" or "int16" -> the times of kernels that compute in it. A table without is of
            one type, that of the activations which the request fixes.
    """

    weighted: Mapping[tuple[str, int], float]
    others: float = 0.0
    layers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    by_type: Mapping[str, LatencyTable] = dataclasses.field(default_factory=dict)

    def of_type(self, dtype: str, *, is_one: bool) -> LatencyTable:
        """The times of kernels that compute in one integer type.

        Args:
            is_one: whether all kernels have that type.

        Raises:
            ValueError: the table does not tell the types apart, or lacks this one.
        """
        if dtype in self.by_type:
            return self.by_type[dtype]
        if is_one and not self.by_type:
            return self
        raise ValueError(
            f"the latency table has no times of {dtype} kernels, which candidates of "
            f"activation_bits allow: its column {_TYPE!r} holds "
            f"{', '.join(sorted(self.by_type)) or 'nothing'}. `tfeptq latency --activation-bits "
            "8,16` measures both types; or give candidates of one, 4 to 8 or 16"
        )

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
    """Reads a CSV file with the columns operator, bits and ms, and perhaps activations.

    `operator` is the name of a layer, with the milliseconds of one inference in it, or a kind
    such as CONV_2D, with milliseconds per million multiplications. Rows without bits are operators
    without weights: their times are always there. `activations` is int8 or int16, the type in which
    a kernel computes: needed where candidates of activations have both, and then rows without bits
    that name a layer are those of its type.

    Raises:
        ValueError: no such file, a missing column or a value that is no number; names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"latency table {path}: no such file")
    reader = csv.DictReader(io.StringIO(text_of(path)), skipinitialspace=True)
    missing = set(_COLUMNS) - set(reader.fieldnames or ())
    if missing:
        raise ValueError(
            f"latency table {path}: no column {sorted(missing)}; it needs {', '.join(_COLUMNS)}"
        )
    rows = [_entry(row, f"latency table {path}, line {reader.line_num}") for row in reader]
    types = {dtype for dtype, *_ in rows if dtype}
    by_type = {dtype: _table([r for r in rows if r[0] in ("", dtype)]) for dtype in sorted(types)}
    return dataclasses.replace(_table(rows), by_type=by_type) if types else _table(rows)


def _table(rows: Sequence[_Row]) -> LatencyTable:
    weighted = {(name, bits): ms for _, name, bits, ms in rows if bits is not None}
    layers = {name: ms for dtype, name, bits, ms in rows if bits is None and dtype}
    others = sum(ms for dtype, _, bits, ms in rows if bits is None and not dtype)
    return LatencyTable(weighted, others, layers)


def _entry(row: Mapping[str, str], where: str) -> _Row:
    try:
        milliseconds = float(row["ms"])
        bits = int(row["bits"]) if row["bits"].strip() else None
        name, dtype = row["operator"].strip(), (row.get(_TYPE) or "").strip()
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{where}: {dict(row)} is not (operator, bits, ms): {error}") from error
    if not 0.0 <= milliseconds < float("inf"):
        raise ValueError(f"{where}: ms={milliseconds} must be a time of at least 0")
    if dtype not in ("", *_TYPES):
        raise ValueError(f"{where}: {_TYPE}={dtype!r} must be int8, int16 or nothing")
    return dtype, name, bits, milliseconds


def write_latencies(table: LatencyTable, path: str | Path) -> None:
    """Writes what `read_latencies` reads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not table.by_type:
        writer.writerow(_COLUMNS)
        writer.writerows((name, bits, f"{ms:.6g}") for (name, bits), ms in table.weighted.items())
        writer.writerow((_OTHERS, "", f"{table.others:.6g}"))
    else:
        writer.writerow((*_COLUMNS, _TYPE))
    for dtype, of_type in table.by_type.items():
        rows = [(name, str(bits), ms) for (name, bits), ms in of_type.weighted.items()]
        rows += [(name, "", ms) for name, ms in of_type.layers.items()]
        writer.writerows((name, bits, f"{ms:.6g}", dtype) for name, bits, ms in rows)
    write_atomically(Path(path), text.getvalue().encode())
