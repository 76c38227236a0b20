"""Folding: learned factors go into the scales, biases onto the grid of the integers that ship."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import keras
import numpy as np

from tfeptq.layer_graph import Call, Key, LayerGraph
from tfeptq.quantizers import ActivationQuantizer
from tfeptq.wrappers import QuantizedWeights

if TYPE_CHECKING:
    from tfeptq.model import QuantizedModel


def fold(model: QuantizedModel) -> None:
    """Leaves `model` with exactly the integers and float32 scales that ship. Idempotent.

    Biases become multiples of input scale times weight scale and accumulators are rounded as in the
    target's kernel, so that Keras and the file compute the same integers. A layer that is called
    on tensors of unequal scales has no single grid and keeps its float bias and arithmetic.
    """
    for layer in model.layers:
        if isinstance(layer, (QuantizedWeights, ActivationQuantizer)):
            layer.fold()
    for layer, scales in _scales(LayerGraph.of(model)).items():
        if len(scales) == 1:
            input_scale, output_scale = scales.pop()
            layer.snap_bias(input_scale)
            layer.set_accumulator_grid(input_scale, output_scale)


def _scales(graph: LayerGraph) -> dict[QuantizedWeights, set[tuple[np.float32, np.float32]]]:
    """Input and output scales with which each weighted layer is called."""
    producers = {call.output: call for call in graph.calls}
    consumers = graph.consumers()
    scales: dict[QuantizedWeights, set[tuple[np.float32, np.float32]]] = {}
    for call in graph.calls:
        if isinstance(call.layer, QuantizedWeights):
            source = quantizer_of(call.inputs[0], producers)
            target = _quantizer_behind(call, consumers)
            pair = (source.parameters()[0], target.parameters()[0])
            scales.setdefault(call.layer, set()).add(pair)
    return scales


def _quantizer_behind(call: Call, consumers: Mapping[Key, list[Call]]) -> ActivationQuantizer:
    """The quantizer in which a weighted layer's result is written; a ReLU may come first."""
    while not isinstance(call.layer, ActivationQuantizer):
        call = consumers[call.output][0]
    return call.layer


def quantizer_of(key: Key, producers: Mapping[Key, Call]) -> ActivationQuantizer:
    """The quantizer whose grid a written tensor lies on: its own, or its source's."""
    call = producers[key]
    while not isinstance(call.layer, ActivationQuantizer):
        if isinstance(call.layer, keras.layers.InputLayer):
            raise ValueError(f"layer {call.layer.name!r} has no activation quantizer behind it")
        call = producers[call.inputs[0]]
    return call.layer
