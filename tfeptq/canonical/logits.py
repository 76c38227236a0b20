"""Where a model has its logits."""

from __future__ import annotations

import keras

from tfeptq.canonical.layer_graph import Key, LayerGraph


def logit_keys(model: keras.Model) -> list[Key]:
    """Tensors that hold the logits: the outputs, before a terminal softmax or sigmoid."""
    graph = LayerGraph.of(model)
    producers = {call.output: call for call in graph.calls}
    keys = []
    for key in graph.outputs:
        call = producers.get(key)
        keys.append(call.inputs[0] if call and _is_squashing(call.layer) else key)
    return keys


def _is_squashing(layer: keras.Layer) -> bool:
    if isinstance(layer, keras.layers.Softmax):
        return True
    return isinstance(layer, keras.layers.Activation) and layer.activation.__name__ == "sigmoid"
