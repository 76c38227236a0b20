"""Functions of token numbers, such as a mask of padding, as tables that their embedding's rows fit.

A runtime compares integers in operators of other types than those of a quantized file; any function
of a number below the count of an embedding's rows is a table, which GATHER reads exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.canonical.lookup_layer import Lookup
from tfeptq.preparation.nodes import Graph, Input, Node, primitive
from tfeptq.preparation.row_numbers import identity, unshaped

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


def fill_tables(outputs: Sequence[Node]) -> None:
    """Makes look-ups of all functions of tokens behind the given tensors, one for equal tables.

    An embedding that reads the same input bounds its numbers; where none does, they are values.
    """
    nodes = Graph("", [], list(outputs)).nodes()
    rows: dict[Hashable, int] = {}
    for node in nodes:
        if node.kind is Lookup:
            tokens = identity(unshaped(node.inputs[0]))
            most = node.options["rows"] - int(np.min(node.options.get("added") or 0))
            rows[tokens] = min(most, rows.get(tokens, most))
    made: dict[Hashable, Node] = {}
    for node in nodes:
        if node.kind is TokenFunction:
            _fill(node, rows, made)


def _fill(node: Node, rows: Mapping[Hashable, int], made: dict[Hashable, Node]) -> None:
    tokens = unshaped(node.inputs[0])
    if identity(tokens) not in rows:
        _become(node, node.options["otherwise"]())
        return
    table = node.options["function"](np.arange(rows[identity(tokens)]))
    table = table.astype(np.float64)[:, None]
    numbers = tokens if tokens.kind is Input else node.inputs[0]
    key = (identity(numbers), table.tobytes())
    if key not in made:
        made[key] = primitive(
            Lookup, f"{node.name}_table", [numbers], weights=[table], rows=len(table), depth=1
        )
    found = Node(keras.layers.Reshape, node.name, [made[key]], node.shape)
    found.options = {"target_shape": node.shape}
    _become(node, found)


def _become(node: Node, other: Node) -> None:
    """In place: others hold the node."""
    node.kind, node.inputs, node.options = other.kind, other.inputs, other.options
    node.weights = other.weights
