"""A quantized model's calls as the distillation runs them: the same results for less."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.canonical.topology import is_relu
from tfeptq.quantized.averaging import QuantizedMean
from tfeptq.quantized.borders import Narrowing
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedWeights


def quick_graph(graph: LayerGraph, read: Collection[Key]) -> LayerGraph:
    """Without what training does not need: kernels' grids are set after it.

    ReLUs that only a quantizer reads are left to it, so that their results need not be kept for
    the backward pass: they are no tensors of the result.

    Args:
        read: tensors that somebody else reads.
    """
    relus = _left_to_quantizers(graph, {*graph.outputs, *read})
    calls = [_quick(call, relus) for call in graph.calls if call.output not in relus]
    return dataclasses.replace(graph, calls=tuple(calls))


def only_quantizers(graph: LayerGraph, read: Collection[Key]) -> dict[Key, Key]:
    """What a quantizer writes -> what it reads and nobody else does.

    Args:
        read: tensors that somebody else reads.
    """
    readers = graph.consumers()
    return {
        call.output: call.inputs[0]
        for call in graph.calls
        # Subclasses do more than to quantize.
        if type(call.layer) is ActivationQuantizer
        and len(readers[call.inputs[0]]) == 1
        and call.inputs[0] not in {*graph.outputs, *read}
    }


def with_kernels(graph: LayerGraph, kernels: Mapping[str, Any]) -> LayerGraph:
    """The same calls with kernels that are quantized already, by the names of their layers."""

    def given(call: Call) -> Call:
        if not isinstance(call.layer, QuantizedWeights):
            return call
        options = {**call.options, "kernel": kernels[call.layer.name]}
        return dataclasses.replace(call, options=options)

    return dataclasses.replace(graph, calls=tuple(map(given, graph.calls)))


def _quick(call: Call, relus: dict[Key, Call]) -> Call:
    options = dict(call.options)
    if isinstance(call.layer, ActivationQuantizer):
        # XLA, too, takes twice as long for the gradients that TensorFlow derives.
        options["is_fused"] = True
    if isinstance(call.layer, (QuantizedWeights, QuantizedMean, Narrowing)):
        options["imitates_kernel"] = False
    relu = relus.get(call.inputs[0])
    if relu is None:
        return dataclasses.replace(call, options=options)
    highest = relu.layer.max_value
    options["ends"] = (0.0, math.inf if highest is None else float(highest))
    return dataclasses.replace(call, inputs=relu.inputs, options=options)


def _left_to_quantizers(graph: LayerGraph, read: Collection[Key]) -> dict[Key, Call]:
    """What they write -> calls of ReLUs that one quantizer reads, and nobody else."""
    readers = graph.consumers()
    return {
        call.output: call
        for call in graph.calls
        if is_relu(call.layer)
        and not (call.layer.negative_slope or call.layer.threshold)
        and call.output not in read
        # Subclasses do more than to quantize.
        and [type(reader.layer) for reader in readers.get(call.output, [])] == [ActivationQuantizer]
    }
