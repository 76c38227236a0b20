"""Numbers of rows: model inputs, parts of them, and whole numbers added to them.

A file holds other tensors as integers of a scale, which number nothing. These are int32 from the
input to the table, and operators that move integers, or add some, are exact in every runtime.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

import keras
import numpy as np

from tfeptq.canonical.lookup_layer import Lookup
from tfeptq.preparation.constants import computed, constant
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import Affine, Constant, Graph, Input, Node, reshape

_L = keras.layers
#: What moves int32 numbers in every runtime; a transposition is one of the rows.
_MOVES = (_L.Reshape, _L.Cropping2D, _L.Concatenate)


@dataclasses.dataclass(frozen=True)
class RowNumbers:
    """Numbers of rows as their table reads them.

    Attributes:
        node: a model input, or what moves make of some.
        added: to each number, whole numbers in the node's shape; None: nothing.
    """

    node: Node
    added: np.ndarray | None


def row_numbers(operation: Any, node: Node) -> RowNumbers:
    """The numbers of rows that a tensor holds.

    Raises:
        UnsupportedLayerError: they are computed otherwise.
    """
    if not are_rows(node):
        raise UnsupportedLayerError(
            operation,
            "takes computed numbers of rows",
            "make them an input of the model; parts of an input, and sums with whole constants, "
            "are taken as well",
        )
    moved = _without_sums(node)
    added = None if moved is node else computed(_of_zeros(node)).options["value"]
    source = unshaped(moved)
    if source.kind is Input:
        moved, added = source, None if added is None else added.reshape(source.shape)
    return RowNumbers(moved, added)


def are_rows(node: Node) -> bool:
    """Whether a tensor holds numbers of inputs, moved and with whole numbers added."""
    # Many ways may lead to a tensor: each is looked at once.
    passed = {node: None}
    for each in (waiting := [node]):
        if each.kind is not Input and not (_moves(each) or _adds_whole(each)):
            return False
        waiting += [n for n in each.inputs if n.kind is not Constant and n not in passed]
        passed.update(dict.fromkeys(waiting))
    return True


def is_part_of_inputs(node: Node) -> bool:
    """Whether a tensor holds numbers of inputs as they are."""
    return are_rows(node) and _without_sums(node) is node


def unshaped(node: Node) -> Node:
    """What a tensor is in another shape."""
    while node.kind is _L.Reshape:
        node = node.inputs[0]
    return node


def identity(node: Node) -> Hashable:
    """Equal for parts of inputs that hold the same numbers, however often they were cut out."""
    if node.kind is Input:
        return node
    return node.kind, repr(sorted(node.options.items())), tuple(map(identity, node.inputs))


def refuse_values(graph: Graph) -> None:
    """Refuses numbers of rows that anything but a table reads: they have no scale.

    Raises:
        ValueError: names the layers, and what to do.
    """
    tables: dict[Node, Node] = {}
    nodes = graph.nodes()
    for node in reversed(nodes):
        table = node if node.kind is Lookup else tables.get(node)
        if table is not None:
            tables.update((source, table) for source in node.inputs if source not in tables)
    for node in nodes:
        found = next((tables[source] for source in node.inputs if source in tables), None)
        if found is None or node.kind is Lookup or node in tables:
            continue
        if not _moves(node) or not all(source in tables for source in node.inputs):
            raise ValueError(
                f"layer {node.name!r} ({node.kind.__name__}) reads the values of an input that "
                f"numbers rows of layer {found.name!r}: in a file those are int32 without a scale; "
                "make what is read as values an input of its own"
            )
        tables[node] = found


def _moves(node: Node) -> bool:
    """Whether a node moves numbers of tensors as they are."""
    return node.kind in _MOVES and all(source.kind is not Constant for source in node.inputs)


def _adds_whole(node: Node) -> bool:
    """Whether a node adds whole constants to a tensor, in its shape."""
    if node.kind is Affine:
        amounts, scale = node.options["offset"], node.options["scale"]
        return bool(np.all(scale == 1.0)) and _is_whole(amounts)
    constants = [source for source in node.inputs if source.kind is Constant]
    if node.kind is not _L.Add or len(constants) != 1:
        return False
    (tensor,) = (source for source in node.inputs if source.kind is not Constant)
    return tensor.shape == node.shape and _is_whole(constants[0].options["value"])


def _is_whole(values: np.ndarray) -> bool:
    return bool(np.all(values == np.round(values)))


def _without_sums(node: Node) -> Node:
    """Only the moves; the node itself where there is nothing else."""
    if node.kind is Input:
        return node
    inputs = [_without_sums(source) for source in node.inputs if source.kind is not Constant]
    if node.kind not in _MOVES:
        return inputs[0]
    if inputs == node.inputs:
        return node
    if node.kind is _L.Reshape:
        return reshape(inputs[0], node.name, node.shape)
    return dataclasses.replace(node, inputs=inputs, images={})


def _of_zeros(node: Node) -> Node:
    """The same of zeros: what is added to each number."""
    if node.kind is Input:
        return constant(node.name, np.zeros(node.shape))
    if node.kind is Constant:
        return node
    return dataclasses.replace(node, inputs=[_of_zeros(each) for each in node.inputs], images={})
