"""Scores that a softmax is not to see."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfeptq.preparation.constants import array_of, broadcast_constant, constant
from tfeptq.preparation.merges import pair
from tfeptq.preparation.nodes import Constant, Node, affine

#: What takes the place of a score that is not looked at: exp of it is nothing beside the others,
#: and it is not so far away that 8 bits could not tell the others apart.
_UNSEEN = -20.0


def masked(name: str, scores: Node, mask: Any, unseen: float = _UNSEEN) -> Node:
    """Scores where a mask of ones and zeros is one, and a low number where it is zero.

    Args:
        mask: a tensor of the model, or an array that all samples share.
        unseen: the low number.
    """
    if not isinstance(mask, Node):
        mask = broadcast_constant(name, np.asarray(array_of(mask), np.float64), scores)
    seen = pair(keras.layers.Multiply, f"{name}_seen", scores, mask)
    return pair(keras.layers.Add, name, seen, hidden(name, mask, unseen))


def hidden(name: str, mask: Node, unseen: float) -> Node:
    """A low number where a mask of ones and zeros is zero, and zero elsewhere."""
    if mask.kind is Constant:
        return constant(f"{name}_constant", (1.0 - mask.options["value"]) * unseen)
    return affine(mask, f"{name}_unseen", -unseen, unseen)
