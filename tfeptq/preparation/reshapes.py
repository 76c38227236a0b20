"""Moves reshapes behind the operators they do not disturb, so that inverse ones meet and vanish.

One-dimensional layers leave a pair of reshapes around every convolution; without them a batch
normalization or a ReLU stands directly behind its convolution again.
"""

from __future__ import annotations

import dataclasses

import keras

from tfeptq.preparation.nodes import Affine, Graph, Node, reshape
from tfeptq.preparation.rewriting import Rewriting


def sink_reshapes(graph: Graph) -> None:
    """Rewrites `graph` until no reshape can move and none follows another."""
    rewriting = Rewriting(graph)
    rewriting.settle(lambda node: _step(rewriting, node))


def _step(rewriting: Rewriting, node: Node) -> bool:
    if _is_reshape(node):
        return _merge(rewriting, node)
    if not node.inputs or not all(_is_reshape(source) for source in node.inputs):
        return False
    # Equal on both sides of the reshapes: otherwise the merge broadcasts.
    shapes = {(source.inputs[0].shape, source.shape) for source in node.inputs}
    if _is_elementwise(node) and len(shapes) == 1 and _commutes(node):
        _swap(rewriting, node)
        return True
    return False


def _is_reshape(node: Node) -> bool:
    return node.kind is keras.layers.Reshape


def _merge(rewriting: Rewriting, node: Node) -> bool:
    """Drops a reshape to the same shape, and the first of two reshapes."""
    source = node.inputs[0]
    if source.shape == node.shape:
        rewriting.replace(node, source)
        return True
    if _is_reshape(source):
        rewriting.rewire(node, source.inputs)
        return True
    return False


def _is_elementwise(node: Node) -> bool:
    return node.kind is Affine or (node.row is not None and node.row.is_elementwise)


def _commutes(node: Node) -> bool:
    if node.kind is not Affine:
        return True
    source = node.inputs[0]
    by_channel = node.options["scale"].ndim or node.options["offset"].ndim
    return not by_channel or source.inputs[0].shape[-1] == source.shape[-1]


def _swap(rewriting: Rewriting, node: Node) -> None:
    """operator(reshape(x)) becomes reshape(operator(x))."""
    before = node.inputs[0]
    moved = dataclasses.replace(
        node,
        inputs=[source.inputs[0] for source in node.inputs],
        shape=before.inputs[0].shape,
    )
    behind = reshape(moved, before.name, node.shape)
    behind.place = behind.place or before.place
    rewriting.replace(node, behind)
