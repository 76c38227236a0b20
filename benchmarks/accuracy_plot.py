"""Accuracy against size: one panel a model, one line a way of choosing widths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

#: "uniform 3" and "uniform 4" are points of one line, and so are means of several draws.
_NUMBERS = re.compile(r"(, mean of)? \d+$")
_STYLES = {"before": "dot", "after": "solid"}
_COLOURS = ("#444444", "#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")


def write_plot(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Writes one HTML page that needs no network.

    Args:
        rows: of `benchmarks.mixed_precision`; those of the parts "before" and "after" are drawn,
            the last one of each model, part, method and size, with its standard error.
    """
    lines = _lines(rows)
    models = list(dict.fromkeys(model for model, _, _ in lines))
    methods = list(dict.fromkeys(method for _, _, method in lines))
    figure = make_subplots(rows=1, cols=len(models), subplot_titles=models)
    named = set()
    for (model, part, method), points in lines.items():
        line = _line(part, method, points, _COLOURS[methods.index(method) % len(_COLOURS)])
        line.showlegend = (part, method) not in named
        named.add((part, method))
        figure.add_trace(line, row=1, col=models.index(model) + 1)
    figure.update_layout(
        template="plotly_white", height=560, title="Accuracy of the files, percent"
    )
    figure.update_xaxes(title="weights, percent of 8 bits")
    figure.write_html(path, include_plotlyjs=True)


def _lines(
    rows: Iterable[Mapping[str, Any]],
) -> dict[tuple[str, str, str], list[Mapping[str, Any]]]:
    """(model, part, method) -> points from the smallest size to the largest."""
    found: dict[tuple[str, str, str], dict[float, Mapping[str, Any]]] = {}
    for row in rows:
        if row["part"] in _STYLES:
            free_ends = ", ends chosen" if row.get("ends") == "chosen" else ""
            key = (row["model"] + free_ends, row["part"], _NUMBERS.sub("", row["method"]))
            found.setdefault(key, {})[row["size"]] = row
    return {key: [points[size] for size in sorted(points)] for key, points in found.items()}


def _line(part: str, method: str, points: Sequence[Mapping[str, Any]], colour: str) -> go.Scatter:
    return go.Scatter(
        x=[point["size"] for point in points],
        y=[point["accuracy"] for point in points],
        error_y={"array": [point["error"] for point in points], "thickness": 1},
        line={"dash": _STYLES[part], "color": colour},
        mode="lines+markers",
        name=f"{method}, {part} EPTQ",
        legendgroup=f"{method} {part}",
    )
