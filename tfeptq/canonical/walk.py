"""A model's tensors for many samples, computed when asked for and dropped after their last use."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import tensorflow as tf

from tfeptq.canonical.layer_graph import Call, Key, LayerGraph, Runner, as_it_is


class Walk:
    """Runs a graph once, call by call: a layer may be changed until its outputs are read.

    Args:
        batches: of the model's inputs, one list of tensors a batch.
        run: gives, of a call, the function of its inputs' values that makes its output, once for
            all batches.
    """

    def __init__(
        self,
        graph: LayerGraph,
        batches: Sequence[Sequence[tf.Tensor]],
        run: Runner = as_it_is,
    ) -> None:
        self._count, self._make = len(batches), run
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
            if missing[-1] in self._tensors:
                missing.pop()
                continue
            if call is None:
                raise KeyError(f"{key}: every reader of {missing[-1]} has read it")
            unread = [k for k in call.inputs if k not in self._tensors]
            if unread:
                missing.extend(unread)
            else:
                self._run(call)
        return self._tensors[key]

    def fork(self, run: Runner | None = None) -> Walk:
        """A walk from here, that may run calls in another way; this one stays where it is."""
        other = copy.copy(self)
        other._tensors, other._readers = dict(self._tensors), Counter(self._readers)
        other._make = run or self._make
        return other

    def _run(self, call: Call) -> None:
        inputs = [self._tensors[key] for key in call.inputs]
        for key in call.inputs:
            self._readers[key] -= 1
            if not self._readers[key]:
                self._tensors.pop(key, None)
        run = self._make(call)
        self._tensors[call.output] = [
            run([column[index] for column in inputs]) for index in range(self._count)
        ]
