"""Where a model has its logits, and what they are made of."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import keras
import numpy as np

from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.canonical.primitives import Output, find_primitive


def logit_keys(model: keras.Model) -> list[Key]:
    """Tensors that hold the logits: the outputs, before a terminal softmax or sigmoid."""
    graph = LayerGraph.of(model)
    producers = {call.output: call for call in graph.calls}
    keys = []
    for key in graph.outputs:
        call = producers.get(key)
        row = find_primitive(call.layer) if call is not None else None
        keys.append(call.inputs[0] if call is not None and row and row.squashes else key)
    return keys


def feature_parts(
    graph: LayerGraph, shapes: Mapping[Key, tuple[int, ...]], key: Key
) -> tuple[int, ...]:
    """Sizes, along the last axis, of what a tensor joins there: boxes beside scores, say.

    Looked for behind layers that move values and leave features alone, such as reshapes; a tensor
    that joins nothing is one part.

    Args:
        shapes: of every tensor, with the batch.
    """
    producers = {call.output: call for call in graph.calls}

    # Remembered: paths of diamonds are many, tensors are few.
    @functools.cache
    def parts(key: Key) -> tuple[int, ...]:
        call, whole = producers.get(key), (shapes[key][-1],)
        row = None if call is None else find_primitive(call.layer)
        if call is None or row is None:
            return whole
        if row.merges and row.copies:
            inner = [parts(given) for given in call.inputs]
            if call.layer.axis in (-1, len(shapes[key]) - 1):
                return tuple(size for sizes in inner for size in sizes)
            return inner[0] if len(set(inner)) == 1 else whole
        if row.output_of(call.layer) is Output.MOVED and _keeps_features(call, shapes):
            return parts(call.inputs[0])
        return whole

    return parts(key)


def _keeps_features(call: Call, shapes: Mapping[Key, tuple[int, ...]]) -> bool:
    """Whether each feature of the output holds values of the same feature of the one input."""
    features = shapes[call.output][-1]
    if len(call.inputs) != 1 or shapes[call.inputs[0]][-1] != features:
        return False
    numbered = np.broadcast_to(np.arange(features, dtype="float32"), shapes[call.inputs[0]])
    moved = keras.ops.convert_to_numpy(call([keras.ops.convert_to_tensor(numbered)]))
    return bool(np.array_equal(moved, np.broadcast_to(np.arange(features), moved.shape)))
