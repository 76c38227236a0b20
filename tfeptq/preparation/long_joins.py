"""Concatenations of more tensors than the kernel of a target takes, in steps."""

from __future__ import annotations

import math
from collections.abc import Mapping

import keras

from tfeptq.preparation.nodes import Graph, Node, primitive
from tflite_export import targets

_L = keras.layers


def split_long_joins(graph: Graph, target: str) -> None:
    """Joins neighbours first, as many as the target takes, where a layer joins more than that.

    Sequences of steps, and tensors that are repeated, are joined so.
    """
    bounds = targets.capabilities(target).most_inputs
    for node in graph.nodes():
        most, level = _bound(node, bounds), 0
        while len(node.inputs) > most:
            node.inputs = _joined(node, int(most), f"{node.name}_{level}")
            level += 1


def _bound(node: Node, bounds: Mapping[str, int]) -> float:
    """How many tensors a node may join; others than concatenations are not asked."""
    if node.kind is not _L.Concatenate or node.row is None:
        return math.inf
    return bounds.get(str(node.row.kind), math.inf)


def _joined(node: Node, most: int, name: str) -> list[Node]:
    """What a concatenation reads, `most` at a time; what repeats is joined once."""
    made: dict[tuple[Node, ...], Node] = {}
    groups = [tuple(node.inputs[i : i + most]) for i in range(0, len(node.inputs), most)]
    for group in dict.fromkeys(groups):
        if len(group) == 1:
            made[group] = group[0]
            continue
        part = primitive(_L.Concatenate, f"{name}_{len(made)}", group, **node.options)
        part.scope = node.scope
        made[group] = part
    return [made[group] for group in groups]
