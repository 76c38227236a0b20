"""Calls of quantized layers as they run fastest where nothing is learned."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfeptq.canonical.layer_graph import Call, LayerGraph
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedWeights

#: Values of a tensor from which one kernel, which is compiled for its shape, is worth it: it spares
#: a dozen passes through memory.
_LARGE = 2**20


def quick_call(call: Call) -> Callable[[list[Any]], Any]:
    """What makes of its inputs what `call` does, outside of training; the same numbers.

    It is for use at once: a kernel is quantized when it is made, not for every batch.
    """
    layer = call.layer
    if isinstance(layer, QuantizedWeights):
        with tf.init_scope():
            kernel, has_grid = layer.quantized_kernel(), layer.has_accumulator_grid
        # Without a grid a dozen passes through memory would leave everything as it is.
        options = {"imitates_kernel": has_grid, **call.options, "kernel": kernel}
        return dataclasses.replace(call, options=options)
    if isinstance(layer, ActivationQuantizer):
        return functools.partial(_quantized, call)
    return call


def quick_outputs(graph: LayerGraph) -> Callable[[Sequence[Any]], list[Any]]:
    """What makes the outputs of a graph from its inputs, by quick calls; for use at once."""
    runs = {call.output: quick_call(call) for call in graph.calls}

    def outputs(inputs: Sequence[Any]) -> list[Any]:
        return graph.compute(inputs, graph.outputs, run=lambda call: runs[call.output])

    return outputs


def _quantized(call: Call, arguments: list[Any]) -> Any:
    is_large = int(arguments[0].shape.num_elements()) >= _LARGE
    return call.layer.without_gradients(arguments[0]) if is_large else call(arguments)
