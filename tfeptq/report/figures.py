"""What a report draws, as Plotly's figures: they need no network."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.report.content import FRONTIER_POINTS, Content, cost_of
from tfeptq.report.frontier_plot import frontier_figure
from tfeptq.report.graph_plot import graph_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tfeptq.model import QuantizedModel

_BARS = 80
_FLOAT, _INTEGER, _RANGE = "#9aa5b1", "#1f6feb", "#b42318"


def figures(quantized: QuantizedModel, content: Content) -> dict[str, str]:
    """Name of a section -> Plotly's JSON of its figure, of those that there is something for."""
    drawn: dict[str, Callable[[], go.Figure | None]] = {
        "frontier": lambda: _frontier(quantized),
        "training": lambda: _training(content),
        "weights": lambda: _weights(quantized),
        "activations": lambda: _activations(quantized),
        "graph": lambda: graph_figure(content),
    }
    found = {name: draw() for name, draw in drawn.items()}
    return {name: _as_json(figure) for name, figure in found.items() if figure is not None}


def _as_json(figure: go.Figure) -> str:
    """For a script of a page, which nothing in it may end.

    Unlike a figure's own JSON, without the template's defaults for charts that are not here.
    """
    return json.dumps(figure.to_plotly_json(), default=_plain).replace("<", "\\u003c")


def packed_plotly() -> str:
    """Plotly's JavaScript, gzip in base64: 2 MB instead of 5; the page's browser unpacks it."""
    from plotly.offline import get_plotlyjs

    packed = gzip.compress(get_plotlyjs().encode("utf-8"), mtime=0)
    return base64.b64encode(packed).decode("ascii")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else list(value)


def _frontier(quantized: QuantizedModel) -> go.Figure | None:
    choice = quantized.report.choice
    if choice is None:
        return None
    cost = cost_of(quantized)
    frontier = choice.frontier(cost, most=FRONTIER_POINTS)
    return frontier_figure(frontier, choice.point_of(quantized.bit_widths), cost)


def _training(content: Content) -> go.Figure | None:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    if not content.training:
        return None
    curves = {
        "error of the rounded network": ("error", 1),
        "loss": ("loss", 2),
        "its part of distillation": ("distillation", 2),
        "rounding decided": ("settled", 3),
        "soft rounding": ("soft_share", 3),
        "float activations": ("float_share", 3),
    }
    titles = ("outputs beside float", "loss", "shares")
    figure = make_subplots(rows=1, cols=3, subplot_titles=titles)
    steps = [row.step for row in content.training]
    for name, (field, column) in curves.items():
        values = [getattr(row, field) for row in content.training]
        figure.add_trace(go.Scatter(x=steps, y=values, name=name, mode="lines"), row=1, col=column)
    figure.update_xaxes(title="step")
    figure.update_yaxes(type="log", col=2)
    figure.update_yaxes(rangemode="tozero", col=1)
    figure.update_layout(template="plotly_white", height=340, margin={"t": 40, "b": 50})
    return figure


def _weights(quantized: QuantizedModel) -> go.Figure | None:
    """Float and integer weights of every layer, and the largest threshold of its channels."""
    panels = {}
    for layer in quantized.weighted_layers:
        kernel, threshold = layer.float_kernel, float(np.max(layer.weight_grid.threshold))
        reach = max(float(np.abs(kernel).max(initial=0.0)), threshold) or 1.0
        edges = np.linspace(-reach, reach, _BARS + 1)
        bars = [
            _bars("float", np.histogram(kernel, edges)[0], edges, _FLOAT),
            _bars("integers", np.histogram(layer.integer_kernel(), edges)[0], edges, _INTEGER),
        ]
        panels[f"{layer.name}, {layer.bits} bits"] = (bars, (-threshold, threshold))
    return _chooser(panels, "weight")


def _activations(quantized: QuantizedModel) -> go.Figure | None:
    """What calibration counted in every quantized tensor, and the range that was chosen."""
    panels = {}
    for call in LayerGraph.of(quantized).calls:
        if not isinstance(call.layer, ActivationQuantizer):
            continue
        histogram = quantized.report.histograms.get(call.inputs[0])
        if histogram is None:
            continue
        low, high = _ends(call.layer)
        edges = np.linspace(min(histogram.minimum, low), max(histogram.maximum, high), _BARS + 1)
        counts = np.histogram(histogram.centers, edges, weights=histogram.counts)[0]
        name = f"{call.inputs[0][0]}, {call.layer.bits} bits"
        panels[name] = ([_bars("float", counts, edges, _FLOAT)], (low, high))
    return _chooser(panels, "value")


def _ends(quantizer: ActivationQuantizer) -> tuple[float, float]:
    scale, zero_point = quantizer.parameters()
    low, high = (float(scale) * (code - zero_point) for code in quantizer.codes)
    return low, high


def _bars(name: str, counts: np.ndarray, edges: np.ndarray, colour: str) -> go.Bar:
    import plotly.graph_objects as go

    centers = 0.5 * (edges[:-1] + edges[1:])
    return go.Bar(
        x=_rounded(centers),
        y=counts.astype(int),
        width=float(edges[1] - edges[0]),
        name=name,
        marker={"color": colour},
        opacity=0.65,
    )


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _chooser(
    panels: Mapping[str, tuple[Sequence[Any], tuple[float, float]]], axis: str
) -> go.Figure | None:
    """One panel at a time, with its range; a list says which."""
    import plotly.graph_objects as go

    if not panels:
        return None
    figure, owners = go.Figure(), []
    for index, (bars, _) in enumerate(panels.values()):
        for bar in bars:
            bar.visible = index == 0
            figure.add_trace(bar)
            owners.append(index)
    buttons = [
        {
            "label": escape(name),
            "method": "update",
            "args": [{"visible": [owner == index for owner in owners]}, {"shapes": _band(ends)}],
        }
        for index, (name, (_, ends)) in enumerate(panels.items())
    ]
    figure.update_layout(
        template="plotly_white",
        height=360,
        margin={"t": 70, "b": 50},
        barmode="overlay",
        bargap=0,
        xaxis_title=axis,
        yaxis={"title": "count", "type": "log"},
        shapes=_band(next(iter(panels.values()))[1]),
        updatemenus=[{"buttons": buttons, "x": 0, "y": 1.2, "xanchor": "left", "yanchor": "top"}],
    )
    return figure


def _band(ends: tuple[float, float]) -> list[dict[str, Any]]:
    """The range, between two lines."""
    return [
        {"type": "line", "x0": end, "x1": end, "yref": "paper", "y0": 0, "y1": 1}
        | {"line": {"color": _RANGE, "dash": "dash"}}
        for end in ends
    ]
