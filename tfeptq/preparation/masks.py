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


def masked(name: str, scores: Node, mask: Any) -> Node:
    """Scores where a mask of ones and zeros is one, and a low number where it is zero.

    Args:
        mask: a tensor of the model, or an array that all samples share.
    """
    if not isinstance(mask, Node):
        mask = broadcast_constant(name, np.asarray(array_of(mask), np.float64), scores)
    if mask.kind is Constant:
        unseen = constant(f"{name}_constant", (1.0 - mask.options["value"]) * _UNSEEN)
    else:
        unseen = affine(mask, f"{name}_unseen", -_UNSEEN, _UNSEEN)
    seen = pair(keras.layers.Multiply, f"{name}_seen", scores, mask)
    return pair(keras.layers.Add, name, seen, unseen)
