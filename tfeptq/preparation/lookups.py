"""Rows of constant tables by numbers that are inputs of the model, or parts of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.canonical.lookup_layer import Lookup
from tfeptq.canonical.topology import Topology
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import Node, primitive, reshape
from tfeptq.preparation.permutes import permute
from tfeptq.preparation.row_numbers import row_numbers

#: Classes of one number; a table of 1 MiB.
_MOST = 1024


def look_up(operation: Any, node: Node, table: np.ndarray, name: str) -> Node:
    """The rows that a tensor numbers; as in Keras, negative numbers count from the last one.

    Raises:
        UnsupportedLayerError: the numbers are computed: a file holds them as integers of a scale.
    """
    return _rows(operation, node, table, name, lambda amount: table[-amount:])


def one_hot(operation: Any, node: Node, count: int, name: str = "") -> Node:
    """Ones where a tensor numbers them and zeros elsewhere: rows of a unit matrix.

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

    def below(amount: int) -> np.ndarray:
        return np.zeros((amount, count))

    return _rows(operation, node, np.eye(count), name or operation.name, below)


def _rows(
    operation: Any, node: Node, table: np.ndarray, name: str, below: Callable[[int], np.ndarray]
) -> Node:
    """The rows that a tensor numbers.

    Args:
        below: the rows of as many numbers below zero, the lowest first.
    """
    if node.kind is keras.layers.Permute:
        # Not every runtime transposes numbers.
        found = _rows(operation, node.inputs[0], table, f"{name}_rows", below)
        order = [*(axis - 1 for axis in node.options["dims"]), len(node.shape)]
        return permute(found, name, order)
    numbers = row_numbers(operation, node)
    added = numbers.added
    if added is not None and np.all(added == added.flat[0]) and abs(added.flat[0]) < len(table):
        table, added = _counted_from(table, int(added.flat[0]), below), None
    rows, depth = table.shape
    found = primitive(
        Lookup,
        name,
        [numbers.node],
        weights=[table],
        rows=rows,
        depth=depth,
        added=None if added is None else added.astype(int).tolist(),
    )
    return reshape(found, f"{name}_places", (*node.shape, depth))


def _counted_from(table: np.ndarray, first: int, below: Callable[[int], np.ndarray]) -> np.ndarray:
    """A table whose row 0 is another one's row `first`."""
    if first >= 0:
        return table[first:]
    return np.concatenate([below(-first), table])


def require_rows(model: keras.Model, samples: Sequence[np.ndarray]) -> None:
    """Refuses samples that number rows which a table does not have, before anything computes.

    Keras counts negative numbers from the end and cuts fractions off; files do neither.

    Args:
        model: canonical.
        samples: one array (N, ...) a model input.

    Raises:
        ValueError: names the input, the number, the layer and its rows.
    """
    topology = Topology(LayerGraph.of(model))
    sources: dict[Key, str] = {key: key[0] for key in topology.graph.inputs}
    given = dict(zip(topology.graph.inputs, samples, strict=True))
    for call in topology.graph.calls:
        if topology.is_index(call.output) and all(key in given for key in call.inputs):
            given[call.output] = _moved(call, [given[key] for key in call.inputs])
            sources[call.output] = sources[call.inputs[0]]
        if isinstance(call.layer, Lookup):
            _require(call.layer, given[call.inputs[0]], sources[call.inputs[0]])


def _moved(call: Call, arrays: Sequence[np.ndarray]) -> np.ndarray:
    made = call.layer(list(arrays) if call.takes_list else arrays[0])
    return np.asarray(keras.ops.convert_to_numpy(made))


def _require(layer: Lookup, numbers: np.ndarray, name: str) -> None:
    low, high = (end - layer.added for end in (0, layer.rows - 1))
    odd = (numbers < low) | (numbers > high) | (numbers != np.floor(numbers))
    if odd.any():
        place = tuple(np.argwhere(odd)[0])
        low, high = (np.broadcast_to(end, numbers.shape)[place] for end in (low, high))
        raise ValueError(
            f"calibration of input {name!r} holds {numbers[place]:g}; layer {layer.name!r} takes "
            f"whole numbers from {low} to {high}, of the rows of its table: tokenize the samples "
            "as in training"
        )
