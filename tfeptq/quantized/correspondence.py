"""Which tensor of the quantized model stands for which tensor of the canonical model.

Keras numbers the calls of a shared layer as it walks through a model, and it walks through the two
models differently. Tensors are therefore told apart by what they are: the result of the same
layer, by name, on the same inputs, where quantizers are looked through. Everything that compares
tensors of the two models asks here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.canonical.own_dtype import DTYPE
from tfeptq.quantized.quantizers import ActivationQuantizer

#: Relative to a tensor's largest value: both models run the same kernels on the same numbers.
_TOLERANCE = 1e-5

#: What a tensor is: the index of an input, or a layer's name and what its inputs are.
_Expression = tuple[Any, ...]


def corresponding_tensors(float_graph: LayerGraph, graph: LayerGraph) -> dict[Key, Key]:
    """Tensor of the canonical model -> its counterpart, as its layer writes it: not yet quantized.

    Calls of one layer on the same input have equal results: they are paired in their order.

    Args:
        float_graph: of the canonical model.
        graph: of its quantized copy.

    Raises:
        ValueError: one of the models makes a call that the other does not, naming the layer.
    """
    numbers: dict[_Expression, int] = {}
    originals = _by_expression(float_graph, numbers)
    counterparts = _by_expression(graph, numbers)
    for number in {**originals, **counterparts}:
        keys, others = originals.get(number, []), counterparts.get(number, [])
        if len(keys) != len(others):
            raise ValueError(
                f"layer {(keys or others)[0][0]!r} is called {len(keys)} times on one input in the "
                f"float model and {len(others)} times in the quantized one: they are not a model "
                "and its own quantized copy; one that was built again has other names of layers"
            )
    pairs = {
        key: other
        for number, keys in originals.items()
        for key, other in zip(keys, counterparts[number], strict=True)
    }
    return dict(zip(float_graph.inputs, graph.inputs, strict=True)) | pairs


def _by_expression(graph: LayerGraph, numbers: dict[_Expression, int]) -> dict[int, list[Key]]:
    """Number of an expression -> the tensors that it describes, but for the model's inputs."""
    known: dict[Key, int] = {}
    for index, key in enumerate(graph.inputs):
        known[key] = numbers.setdefault((index,), len(numbers))
    result: dict[int, list[Key]] = {}
    for call in graph.calls:
        inputs = [known[key] for key in call.inputs]
        if isinstance(call.layer, ActivationQuantizer):
            known[call.output] = inputs[0]
            continue
        number = numbers.setdefault((call.layer.name, *inputs), len(numbers))
        known[call.output] = number
        result.setdefault(number, []).append(call.output)
    return result


def require_equal(
    model: keras.Model, quantized: keras.Model, samples: Sequence[np.ndarray], *, count: int = 2
) -> None:
    """Compares all tensors of the two models, where nothing is rounded.

    Args:
        model: the canonical float model.
        samples: one array a model input, float32 (N, ...); the first `count` are used.

    Raises:
        ValueError: a tensor differs, naming the layer that writes it.
    """
    graphs = LayerGraph.of(model), LayerGraph.of(quantized)
    inputs = [tf.constant(array[:count]) for array in samples]
    expected, found = graphs[0].execute(inputs), _transparent(graphs[1]).execute(inputs)
    for key, other in corresponding_tensors(*graphs).items():
        difference = _difference(np.asarray(expected[key]), np.asarray(found[other]))
        if not difference <= _TOLERANCE:
            raise ValueError(
                f"layer {key[0]!r}: its quantized copy differs from it by {difference:.3g} of its "
                "largest value before anything is rounded; this is a fault of tfeptq: please "
                "report it with the model"
            )


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    """Largest difference as a part of the largest value; infinite for other shapes."""
    if expected.shape != found.shape:
        return float("inf")
    if np.array_equal(expected, found, equal_nan=True):
        return 0.0
    return float(np.abs(expected - found).max() / max(np.abs(expected).max(), 1e-30))


def _transparent(graph: LayerGraph) -> LayerGraph:
    """The same calls without quantizers, and of the float layers inside wrappers."""
    calls = tuple(_float_call(call) for call in graph.calls)
    return dataclasses.replace(graph, calls=calls)


def _float_call(call: Call) -> Call:
    if isinstance(call.layer, ActivationQuantizer):
        return dataclasses.replace(call, layer=keras.layers.Identity(dtype=DTYPE), options={})
    if isinstance(call.layer, keras.layers.Wrapper):
        return dataclasses.replace(call, layer=call.layer.layer, options={})
    return call
