"""The graph while it is rewritten: nodes that point at their inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

Shape = tuple[int, ...]


class Affine:
    """Node kind: scale * x + offset, each a number or one value a channel (the last axis)."""


class Input:
    """Node kind: an input of the model."""


@dataclasses.dataclass(eq=False)
class Weights:
    """Float64 arrays of a layer; nodes of a shared layer hold the same object."""

    arrays: list[np.ndarray]


@dataclasses.dataclass(eq=False)
class Node:
    """One primitive.

    Attributes:
        kind: Keras layer class that will execute it, or `Affine` or `Input`.
        name: wanted name of the layer; made unique when the model is rebuilt.
        shape: of the output, without the batch dimension.
        options: arguments of the layer's constructor.
        scope: name of the nested model it comes from, to resolve equal names.
    """

    kind: type
    name: str
    inputs: list[Node]
    shape: Shape
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: Weights | None = None
    scope: str = ""


@dataclasses.dataclass
class Graph:
    """A model under rewriting; all nodes are reached from `outputs`."""

    name: str
    inputs: list[Node]
    outputs: list[Node]

    def nodes(self) -> list[Node]:
        """All nodes, inputs first, each behind what it reads."""
        ordered: list[Node] = []
        seen: set[Node] = set()
        stack = [(node, False) for node in reversed([*self.inputs, *self.outputs])]
        while stack:
            node, expanded = stack.pop()
            if expanded:
                ordered.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((source, False) for source in reversed(node.inputs))
        return ordered

    def consumers(self) -> dict[Node, list[Node]]:
        readers: dict[Node, list[Node]] = {node: [] for node in self.nodes()}
        for node in readers:
            for source in node.inputs:
                readers[source].append(node)
        return readers

    def replace(self, old: Node, new: Node) -> None:
        """Makes every reader of `old` read `new`."""
        for node in self.nodes():
            if node is not new:
                node.inputs = [new if source is old else source for source in node.inputs]
        self.outputs = [new if node is old else node for node in self.outputs]


def primitive(
    kind: type,
    name: str,
    inputs: Sequence[Node],
    *,
    weights: Iterable[np.ndarray] | Weights | None = None,
    **options: Any,
) -> Node:
    """A node whose output shape is that of the Keras layer `kind(**options)`."""
    layer = kind(**options)
    shapes = [(None, *node.shape) for node in inputs]
    takes_list = isinstance(layer, MERGES)
    shape = layer.compute_output_shape(shapes if takes_list else shapes[0])[1:]
    if weights is not None and not isinstance(weights, Weights):
        weights = Weights([np.asarray(array, np.float64) for array in weights])
    return Node(kind, name, list(inputs), tuple(shape), options, weights)


#: Layers that take a list of tensors.
MERGES = (
    keras.layers.Add,
    keras.layers.Subtract,
    keras.layers.Multiply,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Concatenate,
)


def affine(node: Node, name: str, scale: Any, offset: Any) -> Node:
    """scale * node + offset; constants are numbers or have one value a channel."""
    values = [_by_channel(constant, node) for constant in (scale, offset)]
    return Node(Affine, name, [node], node.shape, {"scale": values[0], "offset": values[1]})


def _by_channel(constant: Any, node: Node) -> np.ndarray:
    """A constant as a float64 number or vector over the last axis."""
    array = np.asarray(constant, np.float64)
    if array.size == 1:
        return array.reshape(())
    if array.size == node.shape[-1] and array.shape[-1] == array.size:
        return array.reshape(-1)
    raise ValueError(f"a constant of shape {array.shape} on a tensor of shape {node.shape}")


def reshape(node: Node, name: str, shape: Shape) -> Node:
    """A Reshape, or the node itself when it has that shape."""
    if node.shape == tuple(shape):
        return node
    return Node(keras.layers.Reshape, name, [node], tuple(shape), {"target_shape": tuple(shape)})
