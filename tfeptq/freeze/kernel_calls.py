"""A quantized model as the kernels that its file will run: what each reads and how it writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import keras

from tfeptq.canonical.constant_layer import Constant
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.plan.topology import is_relu, keeps_grid
from tfeptq.quantized.grids import written_bits
from tfeptq.quantized.quantizers import ActivationQuantizer


@dataclasses.dataclass(frozen=True, eq=False)
class KernelCall:
    """One operator of the file that computes.

    Attributes:
        layer: what it computes; a quantizer where it only brings a tensor into another scale.
        sources: quantizers in whose scales its inputs are.
        target: the quantizer in whose scale it writes.
        index: which of the calls of a shared layer with weights this is.
    """

    layer: keras.Layer
    sources: tuple[ActivationQuantizer, ...]
    target: ActivationQuantizer
    index: int = 0


def kernel_calls(graph: LayerGraph) -> list[KernelCall]:
    """Kernels of a quantized model in execution order, without those that only move integers."""
    producers = {call.output: call for call in graph.calls}
    consumers, written = graph.consumers(), written_bits(graph)
    kernels = []
    for call in graph.calls:
        if _computes(call, written):
            sources = tuple(quantizer_of(key, producers) for key in call.inputs)
            target, index = quantizer_behind(call, consumers), call.options.get("call_index", 0)
            kernels.append(KernelCall(call.layer, sources, target, index))
    return kernels


def _computes(call: Call, written: Mapping[Key, int]) -> bool:
    layer = call.layer
    if isinstance(layer, (keras.layers.InputLayer, Constant)) or keeps_grid(layer):
        return False
    if isinstance(layer, ActivationQuantizer):
        return call.inputs[0] in written
    if is_relu(layer):
        # On a tensor that is not written it is part of the kernel before.
        return call.inputs[0] in written and call.output not in written
    return True


def quantizer_behind(call: Call, consumers: Mapping[Key, list[Call]]) -> ActivationQuantizer:
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
