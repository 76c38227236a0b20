"""Tables for the terminal."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tfeptq.selection.frontier_point import FrontierPoint, spread
from tflite_export import ExportResult

if TYPE_CHECKING:
    from tfeptq.report.comparison import ModelComparison
    from tfeptq.report.quality import Quality
    from tfeptq.selection.latency_table import LatencyTable


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints one table; numbers stand on the right."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console(width=100).print(table)


def show_layers(result: ExportResult) -> None:
    """Widths, container and bytes of layers with weights, and activations that are not 8 bits."""
    show(
        "Layers",
        ("layer", "operator", "weight bits", "stored as", "activation bits", "weight bytes"),
        [
            (
                layer.name,
                layer.kind,
                layer.weight_bits or "-",
                layer.container or "-",
                layer.activation_bits,
                layer.weight_bytes or "-",
            )
            for layer in result.layers
            if layer.weight_bits is not None or layer.activation_bits != 8
        ],
    )
    for note in result.notes:
        print(f"Note: {note}.")


def show_frontier(points: Sequence[FrontierPoint], cost: str, *, rows: int = 20) -> None:
    """Points spread evenly over the frontier, and how many layers have which width."""
    chosen = spread(len(points), rows)
    table = [
        (
            f"{point.costs[cost]:,.0f}" if cost != "latency_ms" else f"{point.costs[cost]:.4f}",
            f"{point.loss:.3g}",
            point.file_bytes,
            _counted(point.widths),
            _counted(point.activation_widths),
        )
        for point in (points[index] for index in chosen)
    ]
    columns = (cost, "predicted loss", "file bytes", "layers by weight bits", "by activation bits")
    has_activations = any(point.activation_widths for point in points)
    count = len(columns) if has_activations else len(columns) - 1
    title = f"{len(chosen)} of {len(points)} undominated choices"
    show(title, columns[:count], [row[:count] for row in table])


def _counted(widths: Mapping[str, int]) -> str:
    counts = sorted(Counter(widths.values()).items())
    return ", ".join(f"{count} at {bits}" for bits, count in counts)


def show_seconds(seconds: Mapping[str, float]) -> None:
    show("Time", ("stage", "seconds"), [(name, f"{value:.1f}") for name, value in seconds.items()])


def show_samples(used: Mapping[str, int]) -> None:
    """One line: how many calibration samples each stage looked at."""
    print("samples: " + ", ".join(f"{stage} {count}" for stage, count in used.items()))


def show_latencies(table: LatencyTable, kernels: str = "") -> None:
    """Milliseconds of every layer by width, and by the type of its kernel where there are both."""
    for dtype, of_type in table.by_type.items():
        show_latencies(of_type, f" in {dtype} kernels")
    if table.by_type:
        return
    widths = sorted({bits for _, bits in table.weighted})
    rows = [
        (
            name,
            *(
                f"{table.weighted[name, bits]:.4f}" if (name, bits) in table.weighted else ""
                for bits in widths
            ),
        )
        for name in dict.fromkeys(name for name, _ in table.weighted)
    ]
    others = table.others + sum(table.layers.values())
    rows.append(("operators without weights", f"{others:.4f}"))
    show(
        f"Milliseconds of one inference{kernels}",
        ("layer", *(f"{bits} bits" for bits in widths)),
        rows,
    )


@dataclasses.dataclass(frozen=True)
class QualityTable:
    """How near every output is to the float model's, as text."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def quality_table(quality: Quality) -> QualityTable:
    """What the report shows of a quality."""
    kind = "held-back" if quality.is_held_back else "calibration"
    return QualityTable(
        f"Nearness to the float model on {quality.samples} {kind} samples",
        ("output", "SQNR dB", "worst channel", "cosine", "same largest", "codes"),
        [
            (
                output.name,
                f"{output.sqnr:.1f}",
                f"{min(output.channel_sqnr):.1f}",
                f"{output.cosine:.4f}",
                "-" if output.agreement is None else f"{100 * output.agreement:.1f} %",
                str(output.codes),
            )
            for output in quality.outputs
        ],
    )


def show_comparison(found: ModelComparison, *, rows: int = 20) -> None:
    """Every layer, where it breaks first, and what more bits would win.

    Args:
        rows: most rows of what would be won.
    """
    show(
        f"Signal-to-noise ratio (SQNR) of every output to the float model's, {found.samples} "
        "samples",
        ("layer", "kind", "weights", "output", "SQNR dB", "alone", "lost here", "cosine"),
        [
            (
                layer.layer,
                layer.kind,
                "-" if layer.weight_bits is None else f"{layer.weight_bits} bits",
                f"{layer.activation_bits} bits",
                f"{layer.sqnr:.1f}",
                f"{layer.alone:.1f}",
                f"{layer.lost:.1f}",
                f"{layer.cosine:.4f}",
            )
            for layer in found.layers
        ],
    )
    print("alone: with float inputs. lost here: below the worst input. At 20 dB a tenth of an")
    print("output's deviation is error, at 10 dB a third.")
    if found.breaks_at is None:
        print("It breaks nowhere: no layer loses 6 dB and ends below 20 dB.")
    else:
        print(f"It breaks first in layer {found.breaks_at!r}.")
    if found.restorations:
        show(
            f"One layer with more bits at a time; the outputs have {found.sqnr:.1f} dB now",
            ("layer", "gets", "SQNR dB", "won"),
            [
                (each.layer, each.way, f"{each.sqnr:.1f}", f"{each.won:+.1f}")
                for each in found.restorations[:rows]
            ],
        )
