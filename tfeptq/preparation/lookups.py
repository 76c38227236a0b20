"""Rows of constant tables by numbers that are inputs of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.canonical.lookup_layer import Lookup
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import Input, Node, primitive, reshape
from tfeptq.preparation.token_functions import source

#: Classes of one number; a table of 1 MiB.
_MOST = 1024


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


def one_hot(operation: Any, node: Node, count: int, name: str = "") -> Node:
    """Ones where a model input numbers them and zeros elsewhere: rows of a unit matrix.

    Raises:
        UnsupportedLayerError: the numbers are computed, or there are so many that the matrix is
            large.
    """
    if count > _MOST:
        raise UnsupportedLayerError(
            operation,
            f"makes {count} numbers of one, by a table of {count} x {count} in a file; at most "
            f"{_MOST} are taken",
            "use an Embedding, which is the product of it and the weights behind it",
        )
    found = look_up(operation, source(node), np.eye(count), name or operation.name)
    return reshape(found, f"{name or operation.name}_places", (*node.shape, count))


def require_rows(model: keras.Model, samples: Sequence[np.ndarray]) -> None:
    """Refuses samples that number rows which a table does not have, before anything computes.

    Keras counts negative numbers from the end and cuts fractions off; files do neither.

    Args:
        model: canonical.
        samples: one array (N, ...) a model input.

    Raises:
        ValueError: names the input, the number, the layer and its rows.
    """
    graph = LayerGraph.of(model)
    given = dict(zip(graph.inputs, samples, strict=True))
    for call in graph.calls:
        if not isinstance(call.layer, Lookup) or call.inputs[0] not in given:
            continue
        numbers, last = given[call.inputs[0]], call.layer.rows - 1
        odd = (numbers < 0) | (numbers > last) | (numbers != np.floor(numbers))
        if odd.any():
            raise ValueError(
                f"calibration of input {call.inputs[0][0]!r} holds {numbers[odd].flat[0]:g}; layer "
                f"{call.layer.name!r} takes whole numbers from 0 to {last}, of the rows of its "
                "table: tokenize the samples as in training"
            )
