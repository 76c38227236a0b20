"""Folds scale * x + offset into neighbouring weights, in float64, wherever that is exact.

Batch normalization, rescaling and arithmetic with constants are all affine nodes. What no neighbour
can take becomes a 1x1 depthwise convolution.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

import keras
import numpy as np

from tfeptq.canonical.linear_maps import LinearMap
from tfeptq.preparation.commutation import AffineMap
from tfeptq.preparation.nodes import Affine, Graph, Node, Weights, reshape
from tfeptq.preparation.rewriting import Rewriting

#: Ratio of scales beyond which weights of 8 bits have less than 4 levels a sign for the smallest.
_EQUAL = 32.0


def fold_affine(graph: Graph) -> None:
    """Leaves no `Affine` node in `graph`."""
    rewriting = Rewriting(graph)
    rewriting.settle(lambda node: node.kind is Affine and _fold(rewriting, node))
    shared: dict[Hashable, Weights] = {}
    for node in graph.nodes():
        if node.kind is Affine:
            rewriting.replace(node, _depthwise(node, shared))


def _fold(rewriting: Rewriting, node: Node) -> bool:
    if _drop_identity(rewriting, node) or _merge(rewriting, node):
        return True
    if _equalizes_inputs(rewriting.graph, node):
        return False
    return (
        _fold_backwards(rewriting, node)
        or _fold_into_all_calls(rewriting, node)
        or _fold_forwards(rewriting, node)
        or _move_behind(rewriting, node)
        or _move_before_relu(rewriting, node)
    )


def _equalizes_inputs(graph: Graph, node: Node) -> bool:
    """Whether features of a model input come in so unequal units that no weights should take them.

    Folded, the weights of the largest features would be so much smaller than the others of their
    kernel that they round to nothing. By itself, every feature has a weight scale of its own.
    """
    sizes = np.abs(node.options["scale"])
    used = sizes[sizes > 0.0]
    is_uneven = bool(used.size) and used.max() > _EQUAL * used.min()
    return is_uneven and node.inputs[0] in graph.inputs


def _drop_identity(rewriting: Rewriting, node: Node) -> bool:
    if np.all(node.options["scale"] == 1.0) and np.all(node.options["offset"] == 0.0):
        rewriting.replace(node, node.inputs[0])
        return True
    return False


def _merge(rewriting: Rewriting, node: Node) -> bool:
    """Two affine nodes in a row become one."""
    source = node.inputs[0]
    if source.kind is not Affine:
        return False
    scale, offset = node.options["scale"], node.options["offset"]
    node.options = {
        "scale": source.options["scale"] * scale,
        "offset": source.options["offset"] * scale + offset,
    }
    rewriting.rewire(node, source.inputs)
    return True


def _fold_backwards(rewriting: Rewriting, node: Node) -> bool:
    """Into the weighted layer before, when nothing else reads that or shares its weights."""
    source = node.inputs[0]
    if not _gives(rewriting, source):
        return False
    assert source.weights is not None
    kernel, bias = source.weights.arrays
    scale = np.broadcast_to(node.options["scale"], bias.shape)
    scaled = _map(source).scaled_outputs(kernel, scale)
    source.weights.arrays = [scaled, bias * scale + node.options["offset"]]
    rewriting.replace(node, source)
    return True


def _fold_into_all_calls(rewriting: Rewriting, node: Node) -> bool:
    """Into a layer whose every call the same map follows, such as the bias of a recurrent cell.

    An offset may also follow a sum of which the layer is an operand.
    """
    source = node.inputs[0]
    operands = source.inputs if source.kind is keras.layers.Add else [source]
    for operand in operands:
        if not _is_weighted(operand) or operand.shape != source.shape:
            continue
        assert operand.weights is not None
        calls = rewriting.holders(operand.weights)
        maps = [found for call in calls if (found := _map_behind(rewriting, call)) is not None]
        # A sum of two calls has one map, which both would add.
        is_of_all = node in maps and len({*maps}) == len(calls)
        if is_of_all and all(_is_same(other, node) for other in maps):
            kernel, bias = operand.weights.arrays
            scale = np.broadcast_to(node.options["scale"], bias.shape)
            scaled = _map(operand).scaled_outputs(kernel, scale)
            operand.weights.arrays = [scaled, bias * scale + node.options["offset"]]
            for other in maps:
                rewriting.replace(other, other.inputs[0])
            return True
    return False


def _map_behind(rewriting: Rewriting, call: Node) -> Node | None:
    """The map that alone reads a layer's result, or the sum that alone reads that."""
    if not rewriting.has_one_reader(call):
        return None
    (reader,) = rewriting.readers(call)
    if reader.kind is not keras.layers.Add:
        return reader if reader.kind is Affine else None
    if reader.shape != call.shape or not rewriting.has_one_reader(reader):
        return None
    (behind,) = rewriting.readers(reader)
    is_offset = behind.kind is Affine and bool(np.all(behind.options["scale"] == 1.0))
    return behind if is_offset else None


def _is_same(left: Node, right: Node) -> bool:
    return all(
        np.array_equal(left.options[name], right.options[name]) for name in ("scale", "offset")
    )


def _gives(rewriting: Rewriting, source: Node) -> bool:
    """Whether a weighted layer may change its output for its only reader."""
    return (
        _is_weighted(source)
        and rewriting.has_one_reader(source)
        and not _is_shared(rewriting, source)
    )


def _fold_forwards(rewriting: Rewriting, node: Node) -> bool:
    """Into all weighted layers behind, when each can take it exactly."""
    affine = AffineMap.of(node)
    readers = rewriting.readers(node)
    if not readers or node in rewriting.graph.outputs:
        return False
    if not all(_takes(rewriting, reader, affine) for reader in readers):
        return False
    for reader in readers:
        _absorb(reader, affine)
    rewriting.replace(node, node.inputs[0])
    return True


def _takes(rewriting: Rewriting, reader: Node, affine: AffineMap) -> bool:
    if not _is_weighted(reader) or _is_shared(rewriting, reader):
        return False
    return affine.is_pure_scale or _map(reader).takes_offset(reader.options)


def _absorb(reader: Node, affine: AffineMap) -> None:
    assert reader.weights is not None
    kernel, bias = reader.weights.arrays
    channels = reader.inputs[0].shape[-1]
    scale = np.broadcast_to(affine.scale, (channels,))
    shift = _map(reader).shift(kernel, np.broadcast_to(affine.offset, (channels,)))
    reader.weights.arrays = [_map(reader).scaled_inputs(kernel, scale), bias + shift]


def _move_behind(rewriting: Rewriting, node: Node) -> bool:
    """Past a pooling, reshape or the like, when weighted layers behind it can take it."""
    affine = AffineMap.of(node)
    if not _sinks(rewriting, affine, node):
        return False
    (passed,) = rewriting.readers(node)
    moved_affine = affine.behind(passed)
    assert moved_affine is not None
    moved = _affine_node(node, moved_affine, passed)
    rewriting.replace(passed, moved)
    rewriting.rewire(passed, node.inputs)
    return True


def _sinks(rewriting: Rewriting, affine: AffineMap, node: Node) -> bool:
    """Whether layers behind `node`, or behind those it can pass, take the map on its output."""
    readers = rewriting.readers(node)
    if not readers or node in rewriting.graph.outputs:
        return False
    if all(_takes(rewriting, reader, affine) for reader in readers):
        return True
    if len(readers) > 1:
        return False
    moved = affine.behind(readers[0])
    return moved is not None and _sinks(rewriting, moved, readers[0])


def _move_before_relu(rewriting: Rewriting, node: Node) -> bool:
    """A positive scale behind a ReLU goes before it, when the weighted layer there can take it."""
    relu, affine = node.inputs[0], AffineMap.of(node)
    if not affine.goes_before_relu(relu) or not rewriting.has_one_reader(relu):
        return False
    source = relu.inputs[0]
    if not _gives(rewriting, source):
        return False
    if relu.options.get("max_value") is not None:
        maximum = relu.options["max_value"] * float(affine.scale)
        relu.options = {**relu.options, "max_value": maximum}
    rewriting.replace(node, relu)
    rewriting.rewire(relu, [_affine_node(node, affine, source)])
    return True


def _affine_node(like: Node, affine: AffineMap, source: Node) -> Node:
    options = {"scale": affine.scale, "offset": affine.offset}
    return dataclasses.replace(like, inputs=[source], shape=source.shape, options=options)


def _is_shared(rewriting: Rewriting, node: Node) -> bool:
    assert node.weights is not None
    return len(rewriting.holders(node.weights)) > 1


def _is_weighted(node: Node) -> bool:
    return node.row is not None and node.row.weights is not None


def _map(node: Node) -> LinearMap:
    assert node.row is not None
    assert node.row.weights is not None
    return node.row.weights


def _depthwise(node: Node, shared: dict[Hashable, Weights]) -> Node:
    """A 1x1 depthwise convolution with the channels' scales and offsets.

    Args:
        shared: weights of places in time, which are the same in every step.
    """
    source, channels = node.inputs[0], node.shape[-1]
    rows = (1, int(np.prod(node.shape[:-1])), channels)
    image = node.shape if len(node.shape) == 3 else rows
    kernel = np.broadcast_to(node.options["scale"], (channels,)).reshape(1, 1, channels, 1)
    bias = np.broadcast_to(node.options["offset"], (channels,))
    weights = Weights([kernel.copy(), bias.copy()])
    if node.place is not None:
        values = (kernel.shape, kernel.tobytes(), bias.tobytes())
        weights = shared.setdefault((*node.place, values), weights)
    convolution = Node(
        keras.layers.DepthwiseConv2D,
        node.name,
        [reshape(source, f"{node.name}_expand", image)],
        image,
        {"kernel_size": (1, 1), "padding": "valid"},
        weights,
        node.scope,
        node.is_own,
    )
    return reshape(convolution, f"{node.name}_squeeze", node.shape)
