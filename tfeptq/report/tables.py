"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from tflite_export import ExportResult


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints one table; numbers stand on the right."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console(width=100).print(table)


def show_layers(result: ExportResult) -> None:
    """Width, container and bytes of every layer with weights."""
    show(
        "Layers",
        ("layer", "operator", "weight bits", "stored as", "activation bits", "weight bytes"),
        [
            (
                layer.name,
                layer.kind,
                layer.weight_bits,
                layer.container,
                layer.activation_bits,
                layer.weight_bytes,
            )
            for layer in result.layers
            if layer.weight_bits is not None
        ],
    )


def show_seconds(seconds: Mapping[str, float]) -> None:
    show("Time", ("stage", "seconds"), [(name, f"{value:.1f}") for name, value in seconds.items()])
