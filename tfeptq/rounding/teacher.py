"""What the float model computes for the distillation, kept for all samples where that fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical.layer_graph import Key, LayerGraph
from tfeptq.canonical.logits import logit_keys
from tfeptq.hessian.probes import compared_calls

#: ResNet20 on 1024 images of 32 x 32 takes 0.8 GB; a computer that trains has room for that.
MEMORY_BYTES = 2**30


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

    def tensors(self, samples: Sequence[Any]) -> list[Any]:
        """Pre-activations and logits of a batch."""
        tensors = self._graph.execute(samples)
        return [tensors[key] for key in self._keys]

    def named(self, tensors: Sequence[Any]) -> dict[Key, Any]:
        """Result of `tensors` by key."""
        return dict(zip(self._keys, tensors, strict=True))

    def remember(
        self, samples: Sequence[np.ndarray], *, batch_size: int, limit: int = MEMORY_BYTES
    ) -> list[tf.Tensor]:
        """`tensors` of all samples, or nothing where they would take more than `limit` bytes."""
        total = len(samples[0])
        batch_size = min(batch_size, total)
        compute = tf.function(self.tensors, autograph=False)

        def batch(begin: int) -> list[Any]:
            return compute([tf.constant(array[begin : begin + batch_size]) for array in samples])

        first = batch(0)
        if sum(int(tf.size(part)) * 4 for part in first) * total > limit * batch_size:
            return []
        result = [np.empty((total, *part.shape[1:]), np.float32) for part in first]
        for start in range(0, total, batch_size):
            # The last batch reaches back instead of being shorter: one shape, one trace.
            begin = min(start, total - batch_size)
            for whole, part in zip(result, batch(begin), strict=True):
                whole[begin : begin + batch_size] = part
        # One after the other: at no time is everything there twice.
        return [tf.constant(result.pop(0)) for _ in range(len(result))]
