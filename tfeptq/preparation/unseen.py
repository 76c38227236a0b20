"""Masks that a model writes itself: numbers far below all scores, where those are not to be seen.

Beside a number of -1e9 an integer tensor has one code for all scores. What a softmax or a sigmoid
gives such numbers is zero in float32 already, and argmax never takes them, so that any number well
below the scores does the same: they become masks of ones and zeros, see `tfeptq.preparation.masks`.
In front of a maximum see `tfeptq.preparation.unchosen`. What was taken for such a mask and is none
shows in the proof.
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from tfeptq.canonical.argmax_layer import ArgMax
from tfeptq.preparation.constants import computed, constant
from tfeptq.preparation.masks import hidden, masked
from tfeptq.preparation.merges import pair
from tfeptq.preparation.nodes import Affine, Constant, Graph, Node, affine

_L = keras.layers
#: Scores are not as low: what is, is a mask's.
_FAR = -1e3
#: What takes its place. Scores that a model has not divided by their deviation reach further down
#: than others.
_UNSEEN = -24.0


def bound_masks(graph: Graph) -> None:
    """Brings what no softmax, sigmoid or argmax is to see near its scores."""
    for node in graph.nodes():
        if node.kind in (_L.Softmax, ArgMax) or _is_sigmoid(node):
            node.inputs = [_bounded(node.inputs[0], _UNSEEN)]


def _is_sigmoid(node: Node) -> bool:
    function = node.options.get("activation")
    return node.kind is _L.Activation and getattr(function, "__name__", function) == "sigmoid"


def _bounded(scores: Node, unseen: float) -> Node:
    """Scores with a low number, instead of one that is far away, where they are not looked at.

    Args:
        unseen: the number, before what is still to come changes it.
    """
    if scores.kind in (_L.Reshape, _L.Permute):
        return reading(scores, [_bounded(scores.inputs[0], unseen)])
    if scores.kind is Affine:
        return _affine_bounded(scores, unseen)
    if scores.kind is _L.Subtract:
        scores = as_sum(scores)
    if scores.kind is not _L.Add:
        return scores
    found = parted(scores)
    if found is None:
        return reading(scores, [_bounded(each, unseen) for each in scores.inputs])
    others, mask, visible = found
    return _masked(scores.name, _bounded(others, unseen), mask, visible, unseen)


def parted(total: Node) -> tuple[Node, Node, Node] | None:
    """Scores, the far numbers that are added to them, and the mask of what is seen; or None."""
    for mask, others in (total.inputs, reversed(total.inputs)):
        is_constant = mask.inputs and all(each.kind is Constant for each in mask.inputs)
        mask = computed(mask) if is_constant else mask
        found = visible_where(mask)
        if found is not None:
            return others, mask, found
    return None


def _affine_bounded(scores: Node, unseen: float) -> Node:
    scale, offset = scores.options["scale"], scores.options["offset"]
    if np.any(offset <= _FAR):
        # Of some channels; or of all, which a softmax does not see.
        kept = np.where(offset <= _FAR, unseen, offset)
        return affine(scores.inputs[0], scores.name, scale, kept)
    if scale.size > 1 or scale <= 0.0:
        return scores
    return reading(scores, [_bounded(scores.inputs[0], unseen / float(scale))])


def _masked(name: str, scores: Node, mask: Node, visible: Node, unseen: float) -> Node:
    scores = biased(name, scores, mask)
    if mask.kind is _L.Multiply or _is_product(scores, visible):
        return pair(_L.Add, name, scores, hidden(name, visible, unseen))
    return masked(name, scores, visible, unseen)


def biased(name: str, scores: Node, mask: Node) -> Node:
    """Scores with what an array adds where it hides nothing."""
    if mask.kind is not Constant:
        return scores
    bias = np.where(mask.options["value"] > _FAR, mask.options["value"], 0.0)
    if not np.any(bias):
        return scores
    return pair(_L.Add, f"{name}_bias", scores, constant(f"{name}_bias", bias))


def visible_where(node: Node) -> Node | None:
    """Ones and zeros where a term of scores lets them be seen, or not; None: it is no mask."""
    if node.kind in (_L.Reshape, _L.Permute):
        inner = visible_where(node.inputs[0])
        return None if inner is None else reading(node, [inner])
    if node.kind is Constant:
        value = node.options["value"]
        return constant(node.name, 1.0 * (value > _FAR)) if np.any(value <= _FAR) else None
    if node.kind is _L.Multiply:
        return _shown_elsewhere(node)
    return _of_ones(node)


def _of_ones(node: Node) -> Node | None:
    """Of b (m - 1) or -b m, for m of ones and zeros and a large b."""
    node, scale, offset = source(node)
    if scale >= -_FAR and offset == -scale:
        return node
    if scale <= _FAR and offset == 0.0:
        return _opposite(node)
    return None


def _shown_elsewhere(product: Node) -> Node | None:
    """Of c (x - b), with a large b: where c is one, a choice takes what is far away."""
    for choice, far in (product.inputs, reversed(product.inputs)):
        if far.kind is Affine and np.all(far.options["offset"] <= _FAR):
            return _opposite(choice)
    return None


def _is_product(node: Node, visible: Node) -> bool:
    """Whether scores are zero already where they are not seen."""
    if node.kind is not _L.Multiply:
        return False
    return any(is_same(each, visible) for each in node.inputs)


def is_same(left: Node, right: Node) -> bool:
    """Whether two masks are equal."""
    if left.kind is Constant and right.kind is Constant:
        return np.array_equal(left.options["value"], right.options["value"])
    return source(left) == source(right)


def source(node: Node) -> tuple[Node, float, float]:
    """What a chain of scales and offsets starts from, and what they come to."""
    scale, offset = 1.0, 0.0
    while node.kind is Affine and node.options["scale"].size == node.options["offset"].size == 1:
        offset += scale * float(node.options["offset"])
        scale *= float(node.options["scale"])
        (node,) = node.inputs
    return node, scale, offset


def _opposite(mask: Node) -> Node:
    if mask.kind is Constant:
        return constant(mask.name, 1.0 - mask.options["value"])
    return affine(mask, f"{mask.name}_opposite", -1.0, 1.0)


def as_sum(difference: Node) -> Node:
    left, right = difference.inputs
    if right.kind is Constant:
        right = constant(right.name, -right.options["value"])
    else:
        right = affine(right, f"{right.name}_negative", -1.0, 0.0)
    return dataclasses.replace(difference, kind=_L.Add, inputs=[left, right], images={})


def reading(node: Node, inputs: list[Node]) -> Node:
    """The same of other tensors; itself where they are what it reads."""
    if all(new is old for new, old in zip(inputs, node.inputs, strict=True)):
        return node
    return dataclasses.replace(node, inputs=inputs, images={})
