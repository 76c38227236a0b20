"""The Pareto frontier as a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tfeptq.selection.frontier_point import FrontierPoint

if TYPE_CHECKING:
    import plotly.graph_objects as go


def frontier_figure(
    frontier: Sequence[FrontierPoint], chosen: FrontierPoint, cost: str
) -> go.Figure:
    """Predicted loss against a cost, with the chosen widths marked.

    Args:
        cost: one of the names in `chosen.costs`.
    """
    import plotly.graph_objects as go

    figure = go.Figure(
        [
            go.Scatter(
                x=[point.costs[cost] for point in frontier],
                y=[point.loss for point in frontier],
                text=[_in_words(point) for point in frontier],
                mode="lines+markers",
                name="undominated choices",
            ),
            go.Scatter(
                x=[chosen.costs[cost]],
                y=[chosen.loss],
                text=[_in_words(chosen)],
                mode="markers",
                marker={"size": 14, "symbol": "star"},
                name="chosen",
            ),
        ]
    )
    lowest = min(chosen.loss, *(point.loss for point in frontier))
    figure.update_layout(
        template="plotly_white",
        xaxis_title=cost.replace("_", " "),
        yaxis_title="predicted rise of the loss",
        yaxis_type="log" if lowest > 0 else "linear",
        height=440,
        margin={"t": 30, "b": 50},
    )
    return figure


def _in_words(point: FrontierPoint) -> str:
    words = [_widths_in_words(point.widths, "layers")]
    if point.activation_widths:
        words.append(_widths_in_words(point.activation_widths, "activations"))
    return "; ".join(words)


def _widths_in_words(widths: Mapping[str, int], what: str) -> str:
    counts = sorted(Counter(widths.values()).items())
    return ", ".join(f"{count} {what} at {bits} bits" for bits, count in counts)
