"""A model's tensors for many samples, computed when asked for and dropped after their last use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import tensorflow as tf

from tfeptq.layer_graph import Call, Key, LayerGraph


class Walk:
    """Runs a graph once, call by call: a layer may be changed until its outputs are read.

    Args:
        batches: of the model's inputs, one list of tensors a batch.
    """

    def __init__(self, graph: LayerGraph, batches: Sequence[Sequence[tf.Tensor]]) -> None:
        self._count = len(batches)
        columns = zip(*batches, strict=True)
        self._tensors: dict[Key, list[tf.Tensor]] = {
            key: list(column) for key, column in zip(graph.inputs, columns, strict=True)
        }
        self._producers = {call.output: call for call in graph.calls}
        self._readers = Counter(key for call in graph.calls for key in call.inputs)

    def __getitem__(self, key: Key) -> list[tf.Tensor]:
        """One tensor a batch. Tensors that every reader has read are gone (KeyError)."""
        missing = [key]
        while missing:
            call = self._producers.get(missing[-1])
            unread = [k for k in call.inputs if k not in self._tensors] if call else []
            if missing[-1] in self._tensors or call is None:
                missing.pop()
            elif unread:
                missing.extend(unread)
            else:
                self._run(call)
        return self._tensors[key]

    def _run(self, call: Call) -> None:
        inputs = [self._tensors[key] for key in call.inputs]
        for key in call.inputs:
            self._readers[key] -= 1
            if not self._readers[key]:
                self._tensors.pop(key, None)
        outputs = []
        for index in range(self._count):
            arguments = [column[index] for column in inputs]
            outputs.append(call.layer(arguments if call.takes_list else arguments[0]))
        self._tensors[call.output] = outputs
