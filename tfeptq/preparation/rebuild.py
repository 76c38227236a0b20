"""A canonical Keras model from the rewritten graph."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import keras
import numpy as np

from tfeptq.canonical.add_layer import Add
from tfeptq.canonical.constant_layer import Constant as ConstantLayer
from tfeptq.canonical.deep_models import followed_to_the_end
from tfeptq.canonical.names import legal_name, unique_name
from tfeptq.preparation.nodes import MERGES, Constant, Graph, Input, Node


def rebuild(graph: Graph) -> keras.Model:
    """A functional model with the graph's inputs and outputs, in float32."""
    names = _unique_names(graph)
    tensors: dict[Node, Any] = {}
    layers: dict[Hashable, keras.Layer] = {}
    for node in graph.nodes():
        if node.kind is Input:
            tensors[node] = keras.Input(node.shape, dtype="float32", name=names[node])
            continue
        if node.kind is Constant:
            layer = ConstantLayer(node.shape, name=names[node], dtype="float32")
            tensors[node] = layer(tensors[graph.inputs[0]])
            layer.set_weights([node.options["value"].astype(np.float32)])
            continue
        inputs = [tensors[source] for source in node.inputs]
        layer = _layer(node, names[node], layers)
        tensors[node] = layer(inputs if isinstance(layer, MERGES) else inputs[0])
        if node.weights is not None:
            layer.set_weights([array.astype(np.float32) for array in node.weights.arrays])
    inputs = [tensors[node] for node in graph.inputs]
    outputs: Any = [tensors[node] for node in graph.outputs]
    if graph.structure is not None:
        outputs = keras.tree.pack_sequence_as(graph.structure, outputs)
    # A single input is no list: Keras warns when the structure of a call differs.
    given = inputs[0] if len(inputs) == 1 else inputs
    with followed_to_the_end():
        return keras.Model(given, outputs, name=graph.name)


def _layer(node: Node, name: str, layers: dict[Hashable, keras.Layer]) -> keras.Layer:
    """The node's layer; calls that share weights share it, and those of one place in time."""
    identity = _identity(node)
    if identity not in layers:
        kind = Add if node.kind is keras.layers.Add else node.kind
        layers[identity] = kind(**node.options, name=name, dtype="float32")
    return layers[identity]


def _identity(node: Node) -> Hashable:
    """What nodes that are calls of one layer have in common."""
    if node.weights is not None:
        return node.weights
    if node.place is None or node.kind in (Input, Constant):
        return node
    shapes: Hashable = tuple(source.shape for source in node.inputs)
    if node.row is not None and node.row.is_elementwise:
        # The first step may compute in another shape, where its state is a constant.
        shapes = len({source.shape for source in node.inputs})
    return (*node.place, node.kind, repr(node.options), shapes)


def _unique_names(graph: Graph) -> dict[Node, str]:
    names: dict[Node, str] = {}
    taken: set[str] = set()
    shared: dict[Hashable, str] = {}
    for node in sorted(graph.nodes(), key=_precedence):
        identity = _identity(node)
        if identity not in shared:
            shared[identity] = _unique(node, taken)
        names[node] = shared[identity]
    return names


def _precedence(node: Node) -> tuple[bool, bool, bool, bool]:
    """Who keeps its name where two are equal: inputs, weights, layers, then the outermost model."""
    return (node.kind is not Input, node.weights is None, not node.is_own, bool(node.scope))


def _unique(node: Node, taken: set[str]) -> str:
    if node.kind is Input:
        # No function is named after an input: it keeps its name, whatever that is.
        return unique_name(node.name, taken)
    wanted, scoped = legal_name(node.name), legal_name(f"{node.scope}_{node.name}")
    is_clash = node.scope and wanted in taken and scoped not in taken
    return unique_name(scoped if is_clash else wanted, taken)
