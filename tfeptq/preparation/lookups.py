"""Rows of constant tables by numbers that are inputs of the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfeptq.canonical.lookup_layer import Lookup
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import Input, Node, primitive, reshape


def differs(operation: Any, node: Node, number: Any, name: str) -> Node:
    """One where an input that numbers rows is another number, and zero where it is that one.

    A table says it, exactly: it has as many rows as the tables that the input numbers otherwise.

    Raises:
        UnsupportedLayerError: the numbers are computed, or are none.
    """
    rows = node.options.get("rows") if node.kind is Input else None
    if rows is None:
        raise UnsupportedLayerError(
            operation,
            "compares values, which are rounded",
            "give what it tells as an input of ones and zeros",
        )
    table = np.ones((rows, 1))
    table[int(number)] = 0.0
    return reshape(look_up(operation, node, table, name), f"{name}_squeeze", node.shape)


def look_up(operation: Any, node: Node, table: np.ndarray, name: str) -> Node:
    """The rows that a model input numbers.

    Raises:
        UnsupportedLayerError: the numbers are computed: a file holds them as integers of a scale.
    """
    if node.kind is not Input:
        raise UnsupportedLayerError(
            operation, "takes computed numbers of rows", "make them an input of the model"
        )
    rows, depth = table.shape
    node.options["rows"] = max(rows, node.options.get("rows", 0))
    return primitive(Lookup, name, [node], weights=[table], rows=rows, depth=depth)
