"""Functions of token numbers, such as a mask of padding, as tables that their embedding's rows fit.

A runtime compares integers in operators of other types than those of a quantized file; any function
of a number below the count of an embedding's rows is a table, which GATHER reads exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.canonical.lookup_layer import Lookup
from tfeptq.preparation.nodes import Graph, Input, Node, primitive

#: Numbers -> values, element by element.
Function = Callable[[np.ndarray], np.ndarray]


class TokenFunction:
    """Node kind: `options["function"]` of every number of an input.

    `options["otherwise"]` makes the node where nothing says how many numbers there are.
    """


def of_tokens(
    operation: Any, node: Node, function: Function, otherwise: Callable[[], Node]
) -> Node:
    """A function of an input of whole numbers; `fill_tables` gives it its table.

    Args:
        otherwise: makes it of an input that no embedding reads.
    """
    options = {"function": function, "otherwise": otherwise}
    return Node(TokenFunction, operation.name, [node], node.shape, options)


def is_input(node: Node) -> bool:
    """Whether a tensor is an input of the model, in whatever shape."""
    return source(node).kind is Input


def source(node: Node) -> Node:
    """What a tensor is a copy of, in whatever shape."""
    while node.row is not None and node.row.copies and len(node.inputs) == 1:
        node = node.inputs[0]
    return node


def fill_tables(outputs: Sequence[Node]) -> None:
    """Makes look-ups of all functions of tokens behind the given tensors, one for equal tables.

    An embedding that reads the same input bounds its numbers; where none does, they are values.
    """
    nodes = Graph("", [], list(outputs)).nodes()
    rows: dict[Node, int] = {}
    for node in nodes:
        if node.kind is Lookup:
            tokens = source(node.inputs[0])
            rows[tokens] = min(node.options["rows"], rows.get(tokens, node.options["rows"]))
    made: dict[tuple[Node, bytes], Node] = {}
    for node in nodes:
        if node.kind is TokenFunction:
            _fill(node, rows, made)


def _fill(node: Node, rows: dict[Node, int], made: dict[tuple[Node, bytes], Node]) -> None:
    tokens = source(node.inputs[0])
    if tokens not in rows:
        _become(node, node.options["otherwise"]())
        return
    table = node.options["function"](np.arange(rows[tokens])).astype(np.float64)[:, None]
    key = (tokens, table.tobytes())
    if key not in made:
        made[key] = primitive(
            Lookup, f"{node.name}_table", [tokens], weights=[table], rows=len(table), depth=1
        )
    found = Node(keras.layers.Reshape, node.name, [made[key]], node.shape)
    found.options = {"target_shape": node.shape}
    _become(node, found)


def _become(node: Node, other: Node) -> None:
    """In place: others hold the node."""
    node.kind, node.inputs, node.options = other.kind, other.inputs, other.options
    node.weights = other.weights
