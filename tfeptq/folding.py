"""Folding: learned factors go into the scales, biases onto the grid of the integers that ship."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import keras
import numpy as np

from tfeptq.averaging import QuantizedAveragePooling, QuantizedMean
from tfeptq.borders import Narrowing
from tfeptq.layer_graph import Call, Key, LayerGraph
from tfeptq.quantizers import ActivationQuantizer
from tfeptq.wrappers import QuantizedWeights

if TYPE_CHECKING:
    from tfeptq.model import QuantizedModel


def fold(model: QuantizedModel) -> None:
    """Leaves `model` with exactly the integers and float32 scales that ship. Idempotent.

    Biases become multiples of input scale times weight scale and accumulators are rounded as in the
    target's kernel, so that Keras and the file compute the same integers: each call of a shared
    layer in the units of its own scales. (Models saved by versions that did not number the calls
    keep a float bias and float arithmetic where a layer is called on unequal scales.)
    """
    for layer in model.layers:
        if isinstance(layer, (QuantizedWeights, ActivationQuantizer)):
            layer.fold()
    graph = LayerGraph.of(model)
    _set_codes(graph)
    _set_grids(graph)
    for (layer, index), scales in _scales(graph).items():
        if len(scales) > 1:
            continue
        input_scale, output_scale = scales.pop()
        if isinstance(layer, QuantizedWeights):
            layer.snap_bias(input_scale, call_index=index)
            layer.set_accumulator_grid(input_scale, output_scale, call_index=index)
        else:
            layer.set_accumulator_grid(input_scale, output_scale)


_Scales = dict[tuple[QuantizedWeights | QuantizedMean, int], set[tuple[np.float32, np.float32]]]


def _scales(graph: LayerGraph) -> _Scales:
    """Input and output scales of each call, by its number, of a layer that accumulates."""
    producers = {call.output: call for call in graph.calls}
    consumers = graph.consumers()
    scales: _Scales = {}
    for call in graph.calls:
        if isinstance(call.layer, (QuantizedWeights, QuantizedMean)):
            source = quantizer_of(call.inputs[0], producers)
            target = _quantizer_behind(call, consumers)
            pair = (source.parameters()[0], target.parameters()[0])
            index = call.options.get("call_index", 0)
            scales.setdefault((call.layer, index), set()).add(pair)
    return scales


def _set_codes(graph: LayerGraph) -> None:
    """Tells average pooling on which codes it works, unless it works on several."""
    producers = {call.output: call for call in graph.calls}
    codes: dict[QuantizedAveragePooling, set[tuple[np.float32, int]]] = {}
    for call in graph.calls:
        if isinstance(call.layer, QuantizedAveragePooling):
            source = quantizer_of(call.inputs[0], producers)
            codes.setdefault(call.layer, set()).add(source.parameters())
    for layer, parameters in codes.items():
        if len(parameters) == 1:
            layer.set_codes(*parameters.pop())


def _set_grids(graph: LayerGraph) -> None:
    """Tells 8-bit copies of 16-bit tensors in which steps those come."""
    producers = {call.output: call for call in graph.calls}
    for call in graph.calls:
        if isinstance(call.layer, Narrowing):
            call.layer.set_grid(quantizer_of(call.inputs[0], producers).parameters()[0])


def _quantizer_behind(call: Call, consumers: Mapping[Key, list[Call]]) -> ActivationQuantizer:
    """The quantizer in which a layer's result is written; a ReLU may come first."""
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
