"""In which order layers take their turn where each looks at what those before it have become.

A layer's turn comes when all layers that any of its calls depends on have had theirs; with one call
a layer that is the order of the network. Only calls of a shared layer that depend on each other
(the layer reads its own result, or two shared layers alternate) leave a circle. It is broken at the
layer that waits for fewest others, and these are its `unsettled` ones: at its turn, something has
to stand for what they will become.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from tfeptq.canonical.layer_graph import Call, Key, LayerGraph


@dataclasses.dataclass(frozen=True)
class Turn:
    """One layer's turn.

    Attributes:
        calls: all its calls, in execution order.
        unsettled: names of layers that some of the calls depend on and whose turn has not come;
            itself where it reads what it has written.
    """

    layer: keras.Layer
    calls: tuple[Call, ...]
    unsettled: frozenset[str]


def turns(graph: LayerGraph, kind: Any) -> list[Turn]:
    """One turn for every layer of a class (or of a tuple of classes)."""
    calls, needs = _calls_and_needs(graph, kind)
    waits = {name: set(needs[name] & calls.keys()) for name in calls}
    result = []
    while waits:
        name = min(waits, key=lambda each: len(waits[each]) - (each in waits[each]))
        result.append(Turn(calls[name][0].layer, tuple(calls[name]), frozenset(waits.pop(name))))
        for others in waits.values():
            others.discard(name)
    return result


def _calls_and_needs(
    graph: LayerGraph, kind: Any
) -> tuple[dict[str, list[Call]], dict[str, frozenset[str]]]:
    """Calls of every layer, and the names of all layers that any of them depends on."""
    behind: dict[Key, frozenset[str]] = dict.fromkeys(graph.inputs, frozenset())
    calls: dict[str, list[Call]] = {}
    needs: dict[str, frozenset[str]] = {}
    for call in graph.calls:
        found = frozenset().union(*(behind[key] for key in call.inputs))
        if isinstance(call.layer, kind):
            name = call.layer.name
            calls.setdefault(name, []).append(call)
            needs[name] = needs.get(name, frozenset()) | found
            found |= {name}
        behind[call.output] = found
    return calls, needs
