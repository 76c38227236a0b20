"""Folds scale * x + offset into neighbouring weights, in float64, wherever that is exact.

Batch normalization, rescaling and arithmetic with constants are all affine nodes. What no neighbour
can take becomes a 1x1 depthwise convolution.
"""

from __future__ import annotations

import keras
import numpy as np

from tfeptq.graph.nodes import Affine, Graph, Node, Weights, reshape

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
_WEIGHTED = (*_CONVOLUTIONS, keras.layers.Dense)


def fold_affine(graph: Graph) -> None:
    """Leaves no `Affine` node in `graph`."""
    while any(_fold(graph, node) for node in graph.nodes() if node.kind is Affine):
        pass
    for node in graph.nodes():
        if node.kind is Affine:
            graph.replace(node, _depthwise(node))


def _fold(graph: Graph, node: Node) -> bool:
    consumers = graph.consumers()
    return (
        _drop_identity(graph, node)
        or _merge(node, consumers)
        or _fold_backwards(graph, node, consumers)
        or _move_behind_flatten(graph, node, consumers)
        or _fold_forwards(graph, node, consumers)
    )


def _drop_identity(graph: Graph, node: Node) -> bool:
    if np.all(node.options["scale"] == 1.0) and np.all(node.options["offset"] == 0.0):
        graph.replace(node, node.inputs[0])
        return True
    return False


def _merge(node: Node, consumers: dict[Node, list[Node]]) -> bool:
    """Two affine nodes in a row become one."""
    source = node.inputs[0]
    if source.kind is not Affine:
        return False
    scale, offset = node.options["scale"], node.options["offset"]
    node.options = {
        "scale": source.options["scale"] * scale,
        "offset": source.options["offset"] * scale + offset,
    }
    node.inputs = source.inputs
    return True


def _fold_backwards(graph: Graph, node: Node, consumers: dict[Node, list[Node]]) -> bool:
    """Into the weighted layer before, when nothing else reads that or shares its weights."""
    source = node.inputs[0]
    if source.kind not in _WEIGHTED or len(consumers[source]) > 1 or source in graph.outputs:
        return False
    if _is_shared(source, consumers):
        return False
    assert source.weights is not None
    kernel, bias = source.weights.arrays
    scale = np.broadcast_to(node.options["scale"], bias.shape)
    by_output = scale.reshape(kernel.shape[2:]) if _is_depthwise(source) else scale
    source.weights.arrays = [kernel * by_output, bias * scale + node.options["offset"]]
    graph.replace(node, source)
    return True


def _fold_forwards(graph: Graph, node: Node, consumers: dict[Node, list[Node]]) -> bool:
    """Into all weighted layers behind, when each can take it exactly."""
    readers = consumers[node]
    if not readers or node in graph.outputs:
        return False
    if not all(_takes(reader, node, consumers) for reader in readers):
        return False
    for reader in readers:
        _absorb(reader, node)
    graph.replace(node, node.inputs[0])
    return True


def _takes(reader: Node, node: Node, consumers: dict[Node, list[Node]]) -> bool:
    if reader.kind not in _WEIGHTED or _is_shared(reader, consumers):
        return False
    # Padded positions are zeros of the convolution's own input: they would miss the offset.
    return _pads_nothing(reader) or not np.any(node.options["offset"])


def _pads_nothing(node: Node) -> bool:
    if node.kind not in _CONVOLUTIONS:
        return True
    size = node.options["kernel_size"]
    return node.options.get("padding", "valid") == "valid" or size in (1, (1, 1))


def _absorb(reader: Node, node: Node) -> None:
    assert reader.weights is not None
    kernel, bias = reader.weights.arrays
    channels = node.shape[-1]
    scale = np.broadcast_to(node.options["scale"], (channels,))[:, None]
    offset = np.broadcast_to(node.options["offset"], (channels,))[:, None]
    shift = kernel * offset
    summed = (
        tuple(range(kernel.ndim - 2)) if _is_depthwise(reader) else tuple(range(kernel.ndim - 1))
    )
    reader.weights.arrays = [kernel * scale, bias + shift.sum(axis=summed).reshape(-1)]


def _move_behind_flatten(graph: Graph, node: Node, consumers: dict[Node, list[Node]]) -> bool:
    """affine then flatten becomes flatten then affine, where a Dense layer may take it."""
    readers = consumers[node]
    if len(readers) != 1 or node in graph.outputs:
        return False
    flat = readers[0]
    behind = consumers[flat]
    if flat.kind is not keras.layers.Reshape or len(flat.shape) != 1 or not behind:
        return False
    if any(reader.kind is not keras.layers.Dense for reader in behind):
        return False
    repeats = flat.shape[0] // node.shape[-1]
    options = {
        name: np.tile(np.broadcast_to(value, (node.shape[-1],)), repeats)
        for name, value in node.options.items()
    }
    moved = Node(Affine, node.name, [flat], flat.shape, options, scope=node.scope)
    graph.replace(flat, moved)
    moved.inputs = [flat]
    flat.inputs = node.inputs
    return True


def _is_shared(node: Node, consumers: dict[Node, list[Node]]) -> bool:
    return sum(other.weights is node.weights for other in consumers) > 1


def _is_depthwise(node: Node) -> bool:
    return node.kind is keras.layers.DepthwiseConv2D


def _depthwise(node: Node) -> Node:
    """A 1x1 depthwise convolution with the channels' scales and offsets."""
    source, channels = node.inputs[0], node.shape[-1]
    image = (1,) * (3 - len(node.shape)) + node.shape
    kernel = np.broadcast_to(node.options["scale"], (channels,)).reshape(1, 1, channels, 1)
    bias = np.broadcast_to(node.options["offset"], (channels,))
    convolution = Node(
        keras.layers.DepthwiseConv2D,
        node.name,
        [reshape(source, f"{node.name}_expand", image)],
        image,
        {"kernel_size": 1},
        Weights([kernel.copy(), bias.copy()]),
        node.scope,
    )
    return reshape(convolution, f"{node.name}_squeeze", node.shape)
