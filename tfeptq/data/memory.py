"""Batches that fit into memory: a batch of large images must not take all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical.layer_graph import LayerGraph

#: What the tensors of one batch may take. The same everywhere: batches decide about rounding errors
#: of sums, and the same seed must give the same bytes on every computer.
BATCH_BYTES = 2**30
_VALUES_A_TRACE = 2**22
#: Tensors that pass by need not be larger: by then a call takes much longer than to make it.
_ENOUGH_BYTES = 96 * 2**20
#: Nor need gradients of a batch of many small samples; of fewer than `_FEW` each takes longer.
_ENOUGH_FOR_GRADIENTS = 2**27
_FEW = 4


def fitting_batch(model: keras.Model, wanted: int, *, copies: int) -> int:
    """Largest batch up to `wanted`, at least 1, of which all tensors fit into `BATCH_BYTES`.

    Args:
        model: a functional model whose layers have one output each.
        copies: how many arrays of the size of each tensor of the model are alive at once, about:
            2 for a forward pass whose tensors are kept and one backward pass.
    """
    return _fitting(wanted, copies * sum(_tensor_bytes(model)))


def gradient_batch(model: keras.Model, wanted: int, *, copies: int) -> int:
    """The same for passes over all samples, batch by batch: no more small ones than are of use."""
    enough = _ENOUGH_FOR_GRADIENTS // (copies * sum(_tensor_bytes(model)))
    return min(fitting_batch(model, wanted, copies=copies), max(_FEW, enough))


def fitting_forward_batch(model: keras.Model, wanted: int, *, copies: int = 4) -> int:
    """The same for a compiled forward pass, which keeps only what is still read.

    Args:
        copies: how many arrays of the size of the largest tensor are alive at once, about.
    """
    return _fitting(wanted, copies * max(_tensor_bytes(model)))


def passing_batch(model: keras.Model, wanted: int, *, copies: int = 4) -> int:
    """`fitting_forward_batch` for passes of which little is kept: no larger than is of use."""
    largest = max(1, _ENOUGH_BYTES // max(_tensor_bytes(model)))
    return min(fitting_forward_batch(model, wanted, copies=copies), largest)


def is_worth_tracing(model: keras.Model, count: int) -> bool:
    """Whether a few passes over `count` samples gain more from compilation than tracing takes.

    TensorFlow traces a call of a layer in about the time in which the call, run operator by
    operator, moves `_VALUES_A_TRACE` values more through memory than it does when it is fused:
    large images gain, unrolled recurrent networks do not.
    """
    shapes = LayerGraph.of(model).shapes(model)
    values = sum(_tensor_bytes(model)) // 4 * count
    return values > _VALUES_A_TRACE * len(shapes)


class WholeBatches(Sequence[list[tf.Tensor]]):
    """The first `count` samples, all of them, in the fewest batches, which have one size.

    One size is one trace of a compiled function. Where it does not divide `count`, the last batch
    reaches back, and must leave out what the batch before has counted. Each batch is made when it
    is asked for.

    Args:
        samples: one array a model input, (N, ...).
        batch_size: the largest allowed.

    Attributes:
        size: of every batch.
        repeats: for each batch, how many of its first samples are the last of the batch before.
    """

    def __init__(self, samples: Sequence[np.ndarray], count: int, batch_size: int) -> None:
        batches = -(-count // batch_size)
        self._samples = samples
        self.size = -(-count // batches)
        self._begins = [min(index * self.size, count - self.size) for index in range(batches)]
        self.repeats = [index * self.size - begin for index, begin in enumerate(self._begins)]

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, index: Any) -> Any:
        begin = self._begins[index]
        return [tf.constant(array[begin : begin + self.size]) for array in self._samples]

    def once(self) -> list[list[tf.Tensor]]:
        """All batches with every sample once: the last one may be shorter."""
        return [
            [tensor[repeated:] for tensor in batch]
            for batch, repeated in zip(self, self.repeats, strict=True)
        ]


def _fitting(wanted: int, sample_bytes: int) -> int:
    return max(1, min(wanted, BATCH_BYTES // sample_bytes))


def _tensor_bytes(model: keras.Model) -> list[int]:
    """Of every tensor for one sample."""
    shapes = LayerGraph.of(model).shapes(model)
    return [4 * int(np.prod(shape[1:])) for shape in shapes.values()]
