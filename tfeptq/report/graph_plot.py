"""The operators of a file as a graph, coloured by what each loses."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from tfeptq.report.content import Content
from tfeptq.report.layer_facts import LayerFacts
from tflite_export import inspect

if TYPE_CHECKING:
    import networkx
    import plotly.graph_objects as go

#: Operators beyond which a picture shows nothing any more.
MOST = 400
#: Operators up to which their names are written beside them; of others the pointer asks.
NAMED = 40
_LETTERS = 26


def graph_figure(content: Content) -> go.Figure | None:
    """From the left to the right; the table has the same colours in figures."""
    import plotly.graph_objects as go

    graph = _graph(content.file)
    if not 0 < graph.number_of_nodes() <= MOST:
        return None
    places = _places(graph)
    facts = {each.name: each for each in content.layers}
    nodes = list(graph.nodes)
    lost = [facts[name].lost or 0.0 if name in facts else 0.0 for name in nodes]
    lines_x: list[float | None] = []
    lines_y: list[float | None] = []
    for start, end in graph.edges:
        lines_x += [places[start][0], places[end][0], None]
        lines_y += [places[start][1], places[end][1], None]
    figure = go.Figure(
        [
            go.Scatter(
                x=lines_x, y=lines_y, mode="lines", line={"color": "#c0c8d0"}, hoverinfo="skip"
            ),
            go.Scatter(
                x=[places[name][0] for name in nodes],
                y=[places[name][1] for name in nodes],
                mode="markers",
                hovertext=[_words(name, graph.nodes[name]["kind"], facts) for name in nodes],
                hoverinfo="text",
                marker={
                    "size": 14,
                    "color": lost,
                    "colorscale": "YlOrRd",
                    "cmin": 0.0,
                    "cmax": max(6.0, *lost),
                    "line": {"width": 1, "color": "#57606a"},
                    "colorbar": {"title": {"text": "dB lost"}},
                },
            ),
        ]
    )
    columns, rows = zip(*places.values(), strict=True)
    # Room for what is written above and behind the last one.
    across, down = (-0.5, max(columns) + 1.0), (min(rows) - 1.0, max(rows) + 1.5)
    figure.update_layout(
        template="plotly_white",
        height=int(min(320 + 30 * (max(rows) - min(rows)), 600)),
        margin={"t": 10, "b": 10},
        showlegend=False,
        xaxis={"visible": False, "range": across},
        yaxis={"visible": False, "range": down},
        annotations=_names(places) if len(nodes) <= NAMED else [],
    )
    return figure


def _names(places: Mapping[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """Of operators, slanting, so that neighbours do not cover each other."""
    return [
        {
            "x": x,
            "y": y,
            "text": escape(name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"),
            "textangle": -30,
            "showarrow": False,
            "xanchor": "left",
            "yanchor": "bottom",
            "yshift": 6,
            "font": {"size": 11},
        }
        for name, (x, y) in places.items()
    ]


def _graph(file: str) -> networkx.DiGraph:
    """Operators by the name of what they write, constants left out."""
    import networkx

    graph = networkx.DiGraph()
    operators = inspect(file).operators
    for operator in operators:
        for output in operator.outputs:
            graph.add_node(output, kind=operator.kind)
    for operator in operators:
        edges = [(a, b) for a in operator.inputs for b in operator.outputs if a in graph]
        graph.add_edges_from(edges)
    return graph


def _places(graph: networkx.DiGraph) -> dict[str, tuple[float, float]]:
    """Columns by the longest way from an input."""
    import networkx

    return {
        name: (float(column), 0.5 * (len(names) - 1) - row)
        for column, names in enumerate(networkx.topological_generations(graph))
        for row, name in enumerate(names)
    }


def _words(name: str, kind: str, facts: dict[str, LayerFacts]) -> str:
    found, shown = facts.get(name), escape(name)
    if found is None:
        return f"{shown}<br>{kind}"
    widths = f"{found.activation_bits}-bit output"
    if found.weight_bits is not None:
        widths = f"{found.weight_bits}-bit weights, {widths}"
    sqnr = "" if found.sqnr is None else f"<br>{found.sqnr:.1f} dB SQNR, {found.lost:.1f} lost here"
    return f"{shown}<br>{kind}<br>{widths}{sqnr}"
