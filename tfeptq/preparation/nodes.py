"""The graph while it is rewritten: nodes that point at their inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.canonical.primitives import PRIMITIVES, Primitive, row_of

Shape = tuple[int, ...]
#: Where in a step through time an operation is; the same in every step.
Place = tuple[Any, ...]


class ConstantError(ValueError):
    """A constant that is neither one number nor one value a channel."""


class Affine:
    """Node kind: scale * x + offset, each a number or one value a channel (the last axis)."""


class Input:
    """Node kind: an input of the model."""


class Constant:
    """Node kind: an array, `options["value"]`, float64 in the node's shape."""


class MovedBatch:
    """Node kind: its input with the batch at `options["axis"]`; see `operations.axes`."""


@dataclasses.dataclass(eq=False)
class Weights:
    """Float64 arrays of a layer; nodes of a shared layer hold the same object."""

    arrays: list[np.ndarray]


@dataclasses.dataclass(eq=False)
class Node:
    """One primitive.

    Attributes:
        kind: Keras layer class that will execute it, or `Affine`, `Input`, `Constant` or
            `MovedBatch`.
        name: wanted name of the layer; made unique when the model is rebuilt.
        shape: of the output, without the batch dimension.
        options: arguments of the layer's constructor.
        scope: name of the nested model it comes from, to resolve equal names.
        is_own: the name is that of the layer it comes from, not one made up for a part of it.
        images: it in other shapes, which all that take parts of it read.
        place: nodes of one place are calls of one layer; None: it is called once.
    """

    kind: type
    name: str
    inputs: list[Node]
    shape: Shape
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: Weights | None = None
    scope: str = ""
    is_own: bool = False
    place: Place | None = None
    images: dict[Shape, Node] = dataclasses.field(default_factory=dict)

    @property
    def row(self) -> Primitive | None:
        """What is known about the primitive; None for the other kinds."""
        function = self.options.get("activation")
        return row_of(self.kind, getattr(function, "__name__", function))


@dataclasses.dataclass
class Graph:
    """A model that is rewritten, see `Rewriting`; all nodes are reached from `outputs`.

    Attributes:
        structure: what the model returns, with a leaf for each output; None for a flat list.
    """

    name: str
    inputs: list[Node]
    outputs: list[Node]
    structure: Any = None

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
MERGES = tuple(row.layer for row in PRIMITIVES if row.merges)


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
    raise ConstantError(f"has a constant of shape {array.shape} on a tensor of shape {node.shape}")


def reshape(node: Node, name: str, shape: Shape) -> Node:
    """A Reshape, or the node itself when it has that shape."""
    if node.shape == tuple(shape):
        return node
    return Node(keras.layers.Reshape, name, [node], tuple(shape), {"target_shape": tuple(shape)})


def as_image(node: Node, name: str) -> Node:
    """A sequence as an image of height 1, for the layer `name`; an image as it is."""
    if len(node.shape) == 3:
        return node
    return reshape(node, f"{name}_expand", (1, *node.shape))


def as_sequence(output: Node, node: Node, name: str) -> Node:
    """What was computed on `as_image(node)`, in the rank of `node`."""
    if len(node.shape) == 3:
        return output
    return reshape(output, f"{name}_squeeze", output.shape[1:])


def in_plane(values: Any, node: Node) -> Shape:
    """A setting of a layer that reads `node` as (height, width); a sequence has height 1."""
    dimensions = len(node.shape) - 1
    sizes = tuple(values) if isinstance(values, (tuple, list)) else (values,) * dimensions
    return (1, *sizes) if dimensions == 1 else sizes
