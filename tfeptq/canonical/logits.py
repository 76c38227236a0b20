"""Where a model has its logits."""

from __future__ import annotations

import keras

from tfeptq.canonical.layer_graph import Key, LayerGraph
from tfeptq.canonical.primitives import find_primitive


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
