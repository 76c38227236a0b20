"""What flows through a graph that is read: symbolic Keras tensors and arrays.

A graph of TensorFlow has fixed sizes, the number of samples among them. It is traced with a prime
number of them, which no other size is a multiple of: wherever that factor stands, there are the
samples.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

#: Samples that a graph is traced with.
BATCH = 1009
#: What GELU multiplies by in its error function.
ROOT = math.sqrt(0.5)


class UnreadableGraphError(ValueError):
    """A graph that cannot be a graph of Keras; the message is the reason, in one line."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """A tensor whose first axes are seen as one, as matrix products of longer tensors do.

    Attributes:
        tensor: (samples, ..., features), as it was before.
    """

    tensor: Any

    def of(self, function: Callable[[Any], Any]) -> Rows:
        """The same view of what a function of the features gives."""
        return Rows(function(self.tensor))


@dataclasses.dataclass(frozen=True)
class Phases:
    """A tensor of which every n-th place is seen as a sample, as dilated convolutions do.

    Attributes:
        tensor: (samples, ..., features), as it was before.
        rates: n of each axis between samples and features.
    """

    tensor: Any
    rates: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ErrorFunction:
    """offset + erf(x / sqrt(2)), of which GELU is made: x / 2 * (1 + erf(x / sqrt(2))).

    Attributes:
        tensor: x.
        offset: 0 or 1.
    """

    tensor: Any
    offset: int

    def value(self) -> Any:
        """The tensor that it stands for, where it is no part of GELU."""
        return ops.erf(ROOT * self.tensor) + float(self.offset)


def is_tensor(value: Any) -> bool:
    return isinstance(value, (keras.KerasTensor, Rows, Phases, ErrorFunction))


def symbol(value: Any) -> Any:
    """A tensor that is no view.

    Raises:
        UnreadableGraphError: the samples cannot be told apart in it.
    """
    if isinstance(value, Rows):
        raise UnreadableGraphError("it computes on the samples' axis joined with another")
    if isinstance(value, Phases):
        raise UnreadableGraphError("between SpaceToBatchND and BatchToSpaceND is no convolution")
    return value.value() if isinstance(value, ErrorFunction) else value


def per_sample(value: Any) -> Any:
    """A constant that was repeated for every sample, once.

    Raises:
        UnreadableGraphError: samples have values of their own.
    """
    if is_tensor(value) or not np.ndim(value) or value.shape[0] != BATCH:
        return value
    if not (value == value[:1]).all():
        raise UnreadableGraphError("a constant differs from sample to sample")
    return value[:1]


def reshaped(value: Any, sizes: Sequence[int]) -> Any:
    """A tensor in another shape, the samples in front.

    Raises:
        UnreadableGraphError: the shape mixes samples.
    """
    tensor = value.tensor if isinstance(value, Rows) else value
    own = [int(size) for size in tensor.shape[1:]]
    first, *rest = [int(size) for size in sizes]
    if -1 in (first, *rest):
        known = int(-np.prod([first, *rest], dtype=np.int64))
        missing = BATCH * int(np.prod(own, dtype=np.int64)) // known
        first, *rest = [missing if size == -1 else size for size in (first, *rest)]
    if first == BATCH:
        return tensor if rest == own else keras.ops.reshape(tensor, (-1, *rest))
    if rest == own[-1:] and first == BATCH * int(np.prod(own[:-1], dtype=np.int64)):
        return Rows(tensor)
    raise UnreadableGraphError(f"a Reshape to {tuple(sizes)} mixes samples")
