"""What the float model computes for the distillation, kept for all samples where that fits.

In memory, or in a file without a name, of which the system keeps in memory what it has room for.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import Key, LayerGraph
from tfeptq.canonical.logits import logit_keys
from tfeptq.hessian.probes import compared_calls

#: ResNet20 on 1024 images of 32 x 32 takes 0.8 GB; a computer that trains has room for that.
MEMORY_BYTES = 2**30
#: Multiplications that a byte spares which is read instead of computed: fewer take less time than
#: to read it. ResNets on 32 x 32 spare 35 to 50, MobileNets on 224 x 224 about 10.
_WORTH_A_BYTE = 20
#: What a disk must have room for, in sizes of the file.
_ROOM = 2.0


class Teacher:
    """The float model's pre-activations and logits.

    Args:
        model: canonical float model.

    Attributes:
        compared: outputs of all calls of layers with weights and of products of two tensors, in
            execution order.
        logits: see `tfeptq.hessian.probes.logit_keys`.
    """

    def __init__(self, model: keras.Model) -> None:
        self._graph = LayerGraph.of(model)
        self.compared = [call.output for call in compared_calls(self._graph)]
        self.logits = logit_keys(model)
        self._keys = list(dict.fromkeys([*self.compared, *self.logits]))
        shapes = self._graph.shapes(model)
        self._multiplications = sum(
            linear.map_of(call.layer).multiplications(
                tuple(call.layer.kernel.shape), shapes[call.inputs[0]], shapes[call.output]
            )
            for call in self._graph.calls
            if linear.is_weighted(call.layer)
        )

    def tensors(self, samples: Sequence[Any]) -> list[Any]:
        """Pre-activations and logits of a batch."""
        tensors = self._graph.execute(samples)
        return [tensors[key] for key in self._keys]

    def named(self, tensors: Sequence[Any]) -> dict[Key, Any]:
        """Result of `tensors` by key."""
        return dict(zip(self._keys, tensors, strict=True))

    def remember(
        self,
        samples: Sequence[np.ndarray],
        *,
        batch_size: int,
        limit: int = MEMORY_BYTES,
        folder: Path | None = None,
    ) -> list[tf.Tensor] | list[np.memmap]:
        """`tensors` of all samples; on disk where they would take more than `limit` bytes.

        Nothing where reading them takes longer than computing them again, or no disk has room.

        Args:
            folder: on whose disk; None: that of temporary files.
        """
        total = len(samples[0])
        batch_size = min(batch_size, total)
        compute = tf.function(self.tensors, autograph=False)

        def batch(begin: int) -> list[Any]:
            return compute([tf.constant(array[begin : begin + batch_size]) for array in samples])

        first = batch(0)
        shapes = [(total, *part.shape[1:]) for part in first]
        size = 4 * sum(map(math.prod, shapes))
        result: list[Any] = []
        if size <= limit:
            result = [np.empty(shape, np.float32) for shape in shapes]
        elif self._multiplications >= _WORTH_A_BYTE * size / total:
            result = _on_disk(shapes, size, folder)
        if not result:
            return []
        for start in range(0, total, batch_size):
            # The last batch reaches back instead of being shorter: one shape, one trace.
            begin = min(start, total - batch_size)
            for whole, part in zip(result, batch(begin), strict=True):
                whole[begin : begin + batch_size] = part
        if size > limit:
            return result
        # One after the other: at no time is everything there twice.
        return [tf.constant(result.pop(0)) for _ in range(len(result))]


def _on_disk(shapes: Sequence[tuple[int, ...]], size: int, folder: Path | None) -> list[np.memmap]:
    """Float32 arrays in a file that is gone with the last of them; none without room for it."""
    where = tempfile.gettempdir() if folder is None else folder
    if shutil.disk_usage(where).free < _ROOM * size:
        return []
    ends = 4 * np.cumsum([0, *map(math.prod, shapes)])
    with tempfile.TemporaryFile(dir=where) as file:
        return [
            np.memmap(file, np.float32, "w+", offset=int(begin), shape=shape)
            for begin, shape in zip(ends, shapes, strict=False)
        ]
