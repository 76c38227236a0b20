"""The Pareto frontier as a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tfeptq.selection.frontier_point import FrontierPoint

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: Plotly draws thousands of points; nobody hovers over more than these.
_POINTS = 400


def frontier_figure(
    frontier: Sequence[FrontierPoint], chosen: FrontierPoint, cost: str
) -> go.Figure:
    """Predicted loss against a cost, with the chosen widths marked.

    Args:
        cost: one of the names in `chosen.costs`.
    """
    import plotly.graph_objects as go

    points = _thinned(frontier)
    figure = go.Figure(
        [
            go.Scatter(
                x=[point.costs[cost] for point in points],
                y=[point.loss for point in points],
                text=[_in_words(point) for point in points],
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
    lowest = min(chosen.loss, *(point.loss for point in points))
    figure.update_layout(
        template="plotly_white",
        xaxis_title=cost.replace("_", " "),
        yaxis_title="predicted rise of the loss",
        yaxis_type="log" if lowest > 0 else "linear",
        height=440,
        margin={"t": 30, "b": 50},
    )
    return figure


def _thinned(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """At most so many points, evenly spread, both ends among them."""
    stride = -(-len(points) // _POINTS)
    thinned = list(points[::stride])
    return thinned if thinned[-1] is points[-1] else [*thinned, points[-1]]


def _in_words(point: FrontierPoint) -> str:
    words = [_widths_in_words(point.widths, "layers")]
    if point.activation_widths:
        words.append(_widths_in_words(point.activation_widths, "activations"))
    return "; ".join(words)


def _widths_in_words(widths: Mapping[str, int], what: str) -> str:
    counts = sorted(Counter(widths.values()).items())
    return ", ".join(f"{count} {what} at {bits} bits" for bits, count in counts)
