"""Batches that fit into memory: a batch of large images must not take all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.layer_graph import LayerGraph

#: What the tensors of one batch may take. The same everywhere: batches decide about rounding errors
#: of sums, and the same seed must give the same bytes on every computer.
BATCH_BYTES = 2**30


def fitting_batch(model: keras.Model, wanted: int, *, copies: int) -> int:
    """Largest batch up to `wanted`, at least 1, of which all tensors fit into `BATCH_BYTES`.

    Args:
        model: a functional model whose layers have one output each.
        copies: how many arrays of the size of each tensor of the model are alive at once, about:
            2 for a forward pass whose tensors are kept and one backward pass.
    """
    return _fitting(wanted, copies * sum(_tensor_bytes(model)))


def fitting_forward_batch(model: keras.Model, wanted: int, *, copies: int = 4) -> int:
    """The same for a compiled forward pass, which keeps only what is still read.

    Args:
        copies: how many arrays of the size of the largest tensor are alive at once, about.
    """
    return _fitting(wanted, copies * max(_tensor_bytes(model)))


class WholeBatches(Sequence[list[tf.Tensor]]):
    """The first `count` samples in batches of equal size; a rest that fills none is left out.

    Each is made when it is asked for.

    Args:
        samples: one array a model input, (N, ...).
    """

    def __init__(self, samples: Sequence[np.ndarray], count: int, batch_size: int) -> None:
        self._samples, self._count, self._batch_size = samples, count // batch_size, batch_size

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        begin = range(self._count)[index] * self._batch_size
        return [tf.constant(array[begin : begin + self._batch_size]) for array in self._samples]


def _fitting(wanted: int, sample_bytes: int) -> int:
    return max(1, min(wanted, BATCH_BYTES // sample_bytes))


def _tensor_bytes(model: keras.Model) -> list[int]:
    """Of every tensor for one sample."""
    shapes = LayerGraph.of(model).shapes(model)
    return [4 * int(np.prod(shape[1:])) for shape in shapes.values()]
