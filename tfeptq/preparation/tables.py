"""Functions of one number as tables, where no kernel of every target's computes them."""

from __future__ import annotations

import numpy as np

from tfeptq.canonical.table_layer import Step, Table
from tfeptq.preparation.nodes import Affine, Graph, Node, primitive
from tfeptq.preparation.rewriting import Rewriting


def tabulated(node: Node, name: str, function: str, **settings: float | None) -> Node:
    """A function of `tfeptq.canonical.tabulated.FUNCTIONS` of each number of a tensor."""
    return primitive(Table, name, [node], steps=[(function, settings)])


def is_table(node: Node, function: str) -> bool:
    """Whether a node is the table of a function alone."""
    return node.kind is Table and [step[0] for step in node.options["steps"]] == [function]


def merge_tables(graph: Graph) -> None:
    """Makes one table of functions, and of scales and offsets, that follow each other.

    What was an operator and a rounding of its own is exact then, and free.
    """
    rewriting = Rewriting(graph)
    for node in graph.nodes():
        source = node.inputs[0] if node.inputs else node
        if _steps(node) is None or not rewriting.has_one_reader(source):
            continue
        first, second = _steps(source), _steps(node)
        if first is None or second is None or Table not in (node.kind, source.kind):
            continue
        merged = primitive(Table, node.name, source.inputs, steps=[*first, *second])
        merged.scope, merged.is_own = node.scope, node.is_own
        rewriting.replace(node, merged)


def _steps(node: Node) -> list[Step] | None:
    """What a node does to each number alone, where a table can do it."""
    if node.kind is Table:
        return list(node.options["steps"])
    if node.kind is not Affine:
        return None
    scale, offset = (node.options[key] for key in ("scale", "offset"))
    if np.size(scale) != 1 or np.size(offset) != 1:
        return None
    return [("affine", {"scale": float(scale), "offset": float(offset)})]
