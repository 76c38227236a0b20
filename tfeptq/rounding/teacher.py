"""What the float model computes for the distillation, kept for all samples where that fits."""

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
from tfeptq.rounding.kept_tensors import InFile, InMemory, KeptTensors

#: Beyond it tensors go into a file: a training of a small model takes hardly more than TensorFlow
#: itself, and should not take twice that for what can be read as soon as it is needed.
MEMORY_BYTES = 2**27
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
    ) -> KeptTensors | None:
        """`tensors` of all samples; in a file where they would take more than `limit` bytes.

        None where reading them takes longer than computing them again, or no disk has room.

        Args:
            folder: on whose disk; None: that of temporary files.
        """
        total = len(samples[0])
        batch_size = min(batch_size, total)
        compute = tf.function(self.tensors, autograph=False)

        def batch(begin: int) -> list[Any]:
            return compute([tf.constant(array[begin : begin + batch_size]) for array in samples])

        shapes = [(total, *part.shape[1:]) for part in batch(0)]
        size = 4 * sum(map(math.prod, shapes))
        if size <= limit:
            kept: KeptTensors = InMemory(shapes)
        elif self._is_read_sooner(size / total) and _has_room(size, folder):
            kept = InFile(shapes, folder)
        else:
            return None
        for start in range(0, total, batch_size):
            # The last batch reaches back instead of being shorter: one shape, one trace.
            begin = min(start, total - batch_size)
            kept.write(begin, batch(begin))
        return kept

    def _is_read_sooner(self, sample_bytes: float) -> bool:
        return self._multiplications >= _WORTH_A_BYTE * sample_bytes


def _has_room(size: int, folder: Path | None) -> bool:
    where = tempfile.gettempdir() if folder is None else folder
    return shutil.disk_usage(where).free >= _ROOM * size
