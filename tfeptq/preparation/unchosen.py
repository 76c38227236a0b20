"""Masks that a model writes itself, in front of a maximum: `max(where(mask, x, -1e9))`.

How low is low enough only the data say. The least of all x of a sample is: with it the rest of x is
at least zero, so that what is hidden may be zero, and max(where(m, x, -1e9)) is
max(m (x - min x)) + min x wherever anything is seen. Where nothing is seen, the proof shows that it
differs. Minima are maxima of negatives, with +1e9.
"""

from __future__ import annotations

import dataclasses
import math

import keras

from tfeptq.preparation.merges import pair
from tfeptq.preparation.nodes import Graph, Node, affine, primitive, reshape
from tfeptq.preparation.reductions import maximum
from tfeptq.preparation.unseen import as_sum, biased, is_same, parted, reading, source

_L = keras.layers


def lift_masks(graph: Graph) -> None:
    """Puts zeros in the place of what no maximum is to choose."""
    for node in graph.nodes():
        if node.kind is _L.MaxPooling2D:
            _lift(node)


def _lift(pooling: Node) -> None:
    found = _lifted(pooling.inputs[0])
    if found is None:
        return
    lifted, height = found
    if height is None:
        pooling.inputs = [lifted]
        return
    name = f"{pooling.name}_lifted"
    inner = dataclasses.replace(
        pooling, name=name, inputs=[lifted], is_own=False, place=None, images={}
    )
    height = reshape(height, f"{name}_height", (1,) * len(pooling.shape))
    pooling.kind, pooling.options, pooling.inputs = _L.Subtract, {}, [inner, height]


def _lifted(scores: Node) -> tuple[Node, Node | None] | None:
    """Scores that are raised above zero where they are seen, and zero elsewhere; and by how much.

    Returns:
        None for the height where scores are never negative; None where there is no mask.
    """
    if scores.kind in (_L.Reshape, _L.Permute):
        inner = _lifted(scores.inputs[0])
        return None if inner is None else (reading(scores, [inner[0]]), inner[1])
    scores = _multiplied_out(scores)
    found = parted(scores) if scores.kind is _L.Add else None
    if found is None:
        return None
    others, mask, visible = found
    return _seen(scores.name, biased(scores.name, _unmasked(others, visible), mask), visible)


def _seen(name: str, values: Node, visible: Node) -> tuple[Node, Node | None]:
    if _is_positive(values):
        return pair(_L.Multiply, name, values, visible), None
    flat = reshape(values, f"{name}_flat", (math.prod(values.shape), 1))
    opposite = affine(flat, f"{name}_opposite", -1.0, 0.0)
    found = maximum(opposite, f"{name}_least", (0,), keepdims=False)
    height = reshape(found, f"{name}_height", (1,) * len(values.shape))
    raised = primitive(_L.Add, f"{name}_raised", [values, height])
    return pair(_L.Multiply, name, raised, visible), height


def _multiplied_out(node: Node) -> Node:
    """a (x + y) as a x + a y, for a number a; itself if it is none."""
    inner, scale, offset = source(node)
    inner = as_sum(inner) if inner.kind is _L.Subtract else inner
    if inner.kind is not _L.Add or offset != 0.0:
        return node
    if scale == 1.0:
        return inner
    terms = [
        affine(each, f"{node.name}_term_{index}", scale, 0.0)
        for index, each in enumerate(inner.inputs)
    ]
    return dataclasses.replace(inner, name=node.name, inputs=terms, images={})


def _unmasked(values: Node, visible: Node) -> Node:
    """What is multiplied with the mask, if values are such a product."""
    inner, scale, offset = source(values)
    if inner.kind is _L.Multiply:
        for mask, factor in (inner.inputs, reversed(inner.inputs)):
            if is_same(mask, visible):
                return affine(factor, values.name, scale, offset)
    return values


def _is_positive(node: Node) -> bool:
    node, scale, offset = source(node)
    while node.kind in (_L.Reshape, _L.Permute):
        (node,) = node.inputs
    return scale > 0.0 and offset >= 0.0 and node.kind in (_L.ReLU, _L.Softmax)
