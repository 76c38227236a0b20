"""Rows of constant tables by numbers that are inputs of the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfeptq.canonical.lookup_layer import Lookup
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import Input, Node, primitive


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
    return primitive(Lookup, name, [node], weights=[table], rows=rows, depth=depth)
