"""Rounding layer by layer, in the order of the network, before any training.

Each layer sees what its predecessors, already rounded, make of the calibration samples, and is
fitted to what the float layer computes from float inputs: see `tfeptq.rounding.gptq`. Biases take
what is left of the means, so that this is bias correction as well
(`tfeptq.calibrate.bias_correction`).

A shared layer is fitted to all its calls at once, when all layers that any of them depends on are
rounded (`tfeptq.canonical.turns`). Where calls depend on each other, layers whose turn has not come
stand in with their float weights, the layer itself among them: a second look, at what it has
become, changed errors of small networks by less than their noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import Call, LayerGraph
from tfeptq.canonical.topology import Topology, keeps_order
from tfeptq.canonical.turns import turns
from tfeptq.canonical.walk import Runner, Walk
from tfeptq.data.memory import WholeBatches, fitting_forward_batch
from tfeptq.model import QuantizedModel
from tfeptq.progress import progress
from tfeptq.quantized.correspondence import corresponding_tensors
from tfeptq.quantized.quick_calls import quick_call
from tfeptq.quantized.weight_grid import WeightGrid
from tfeptq.quantized.weight_structure import WeightStructure
from tfeptq.quantized.wrappers import QuantizedWeights
from tfeptq.rounding.call_weights import call_weights
from tfeptq.rounding.input_moments import SplitMoments
from tfeptq.rounding.refit import refitted
from tfeptq.rounding.structured_gptq import structured_integers
from tfeptq.stage_samples import first

#: Samples that are run at once, and how many arrays of the size of the largest tensor that takes.
_BATCH, _COPIES = 32, 12


def round_layer_by_layer(
    quantized: QuantizedModel,
    model: keras.Model,
    samples: Sequence[np.ndarray],
    *,
    count: int | None = None,
    corrects_biases: bool = True,
    is_trained_later: bool = False,
) -> None:
    """Gives every layer of `quantized` its integers, and its bias what they shift in the mean.

    A layer that is called several times is fitted to all its calls, see
    `tfeptq.rounding.call_weights`.

    Args:
        quantized: calibrated, with the steps of its weights; activations are quantized fully.
        model: the canonical float model with the same layer names.
        samples: one array a model input, float32 (N, ...); the first `count` are used, None:
            all; or as many as fit into memory.
        corrects_biases: otherwise biases stay, and means count as all other errors.
        is_trained_later: allow only the two integers around each float weight, between which
            training chooses. What moves weights further fits the samples too closely: after
            training it is worse on others.
    """
    graph, float_graph = LayerGraph.of(quantized), LayerGraph.of(model)
    counterparts = corresponding_tensors(float_graph, graph)
    float_calls = {counterparts[call.output]: call for call in float_graph.calls}
    topology = Topology(float_graph)
    batches = _batches(model, samples, count)
    quantized.report.samples["layer by layer"] = fitting_samples(model, samples, count)
    inputs, float_inputs = Walk(graph, batches, quick_call), Walk(float_graph, batches)
    for turn in progress(turns(graph, QuantizedWeights), "layer by layer"):
        layer, walk, float_walk = turn.layer, inputs, float_inputs
        if keeps_order(layer.layer):
            # Factors are exact: what their outputs lack was clipped on purpose, as nobody reads it.
            continue
        if turn.unsettled:  # What is computed now must not be kept.
            run = _with_float_weights(turn.unsettled)
            walk, float_walk = inputs.fork(run), float_inputs.fork()
        calls = [float_calls[call.output] for call in turn.calls]
        both = zip(turn.calls, calls, strict=True)
        parts = [
            SplitMoments.of(layer.layer, walk[ours.inputs[0]], float_walk[call.inputs[0]])
            for ours, call in both
        ]
        moments = _joint(topology, calls, parts, is_centered=corrects_biases)
        _round(layer, moments, is_trained_later=is_trained_later)
        if corrects_biases:
            _correct_bias(layer, moments)


def _with_float_weights(names: Collection[str]) -> Runner:
    """Runs calls of the layers called `names` with the weights that are not rounded."""

    def run(call: Call) -> Callable[[list[Any]], Any]:
        if call.layer.name in names:
            return dataclasses.replace(call, layer=call.layer.layer, options={})
        return quick_call(call)

    return run


def _joint(
    topology: Topology,
    calls: Sequence[Call],
    parts: Sequence[SplitMoments],
    *,
    is_centered: bool,
) -> SplitMoments:
    """Moments of all calls of a layer together.

    Args:
        topology: of the float model, which has the calls.
    """
    weights = call_weights(topology, calls, [part.whole for part in parts])
    pooled = SplitMoments.pooled(parts, weights)
    return pooled if is_centered else pooled.uncentered()


def _round(layer: QuantizedWeights, moments: SplitMoments, *, is_trained_later: bool) -> None:
    weights = linear.by_group(layer.layer, layer.float_kernel).astype(np.float64)
    targets = refitted(weights, moments)
    integers = rounded(
        layer.layer,
        linear.from_groups(layer.layer, targets),
        layer.weight_grid,
        moments.covariance(),
        is_trained_later=is_trained_later,
    )
    layer.set_integers(integers)


def _correct_bias(layer: QuantizedWeights, moments: SplitMoments) -> None:
    kernels = layer.float_kernel.astype(np.float64), layer.integer_kernel()
    weights, rounded_weights = (linear.by_group(layer.layer, kernel) for kernel in kernels)
    shift = moments.whole.float_mean @ weights - moments.whole.mean @ rounded_weights
    layer.shift_bias(shift.reshape(-1).astype(np.float32))


def rounded(
    layer: keras.Layer,
    kernel: np.ndarray,
    grid: WeightGrid,
    covariance: np.ndarray,
    *,
    is_trained_later: bool,
) -> np.ndarray:
    """Integers for a kernel, in its shape, float64; see
    `tfeptq.rounding.gptq.compensated_integers`.

    They keep the structure of the float weights, see `tfeptq.quantized.weight_structure`.

    Args:
        layer: the weighted primitive, with the float weights.
        kernel: what it is fitted to.
        grid: of the kernel.
    """
    original = np.asarray(layer.kernel)
    structure = WeightStructure.of(layer, original, grid)
    weights, targets = (
        linear.by_group(layer, each).astype(np.float64) for each in (original, kernel)
    )

    def by_group(by_channel: np.ndarray) -> np.ndarray:
        spread = np.broadcast_to(by_channel, kernel.shape)
        return linear.by_group(layer, spread)[:, :1].astype(np.float64)

    shared = structure.shared
    integers = structured_integers(
        weights,
        targets,
        grid.arranged(by_group),
        covariance,
        zeros=linear.by_group(layer, structure.zeros),
        shared=None if shared is None else linear.by_group(layer, shared),
        stays_around=is_trained_later,
    )
    return linear.from_groups(layer, integers)


def float_moments(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    *,
    count: int,
    is_centered: bool,
    names: Collection[str] | None = None,
) -> Iterator[tuple[keras.Layer, SplitMoments]]:
    """Weighted layers of a float model with the moments of their inputs, all calls together.

    Args:
        names: of the layers; None: all.
    """
    graph = LayerGraph.of(model)
    topology = Topology(graph)
    inputs = Walk(graph, _batches(model, samples, count))
    for turn in progress(turns(graph, linear.WEIGHTED_LAYERS), "moments of inputs"):
        if names is not None and turn.layer.name not in names:
            continue
        walk = inputs.fork() if turn.unsettled else inputs
        parts = [SplitMoments.of(turn.layer, walk[call.inputs[0]]) for call in turn.calls]
        yield turn.layer, _joint(topology, turn.calls, parts, is_centered=is_centered)


def _batches(
    model: keras.Model, samples: Sequence[np.ndarray], count: int | None
) -> list[list[tf.Tensor]]:
    count = fitting_samples(model, samples, count)
    batch_size = fitting_forward_batch(model, min(count, _BATCH), copies=_COPIES)
    # An even number of batches: two halves of the samples are looked at apart.
    pairs = -(-count // (2 * batch_size))
    return WholeBatches(samples, count, -(-count // (2 * pairs))).once()


def fitting_samples(model: keras.Model, samples: Sequence[np.ndarray], count: int | None) -> int:
    """How many of the first `count` samples fit into memory; None: of all."""
    # The largest tensors of both models, and a residual.
    return fitting_forward_batch(model, first(count, len(samples[0])), copies=3)
