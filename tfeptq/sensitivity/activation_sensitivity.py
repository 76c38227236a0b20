"""How much the loss is expected to rise when a group of activations gets a width.

The same three estimates as for weights (`tfeptq.sensitivity.sensitivity`), each a sum over the
group's quantizers, in the same units: losses of weights and activations add up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.calibrate.histograms import Histogram
from tfeptq.calibrate.ranges import best_range, calibration_histograms
from tfeptq.canonical.layer_graph import Key, LayerGraph
from tfeptq.checkpoint.steps import Checkpoint
from tfeptq.config import QuantizationConfig
from tfeptq.hessian.activations import TRACED, Grid, activation_moments
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.hessian.pairs import PAIRED, Candidate, PairTerms, pair_terms
from tfeptq.plan.activation_groups import ActivationGroups
from tfeptq.plan.input_ranges import fixed_by_range, input_ranges
from tfeptq.plan.slots import Plan, fixed_parameters
from tfeptq.quantized.quantizers import asymmetric_parameters
from tfeptq.sensitivity.sensitivity import Losses, augmented


def activation_sensitivity(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    groups: ActivationGroups,
    config: QuantizationConfig,
    checkpoint: Checkpoint,
    scores: FloatScores,
) -> Losses:
    """Predicted loss of every group at every candidate width, by `config.sensitivity`.

    - label_free: half the mean over samples of the sum over elements of J^2 e^2, J the Jacobian of
      the logits: nothing is averaged before errors and curvatures meet.
    - hawq_v2: half the average trace of a sample's Hessian times E||Q(a) - a||^2 (section 3.3).
    - inter_layer: half of e'He along the errors themselves, and half of every positive pair term
      with other quantizers at the same width. Terms between weights and activations are left out.

    Args:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...).
        checkpoint: where curvatures are kept.
        scores: of `model`; is told how many samples were used.
    """
    grids = activation_grids(model, samples, groups, config, scores.histograms)
    if config.sensitivity == "inter_layer":
        scores.note("pair terms", PAIRED)
        arrays = checkpoint.arrays(
            "activation_pairs", _pairs, model=model, samples=samples, errors=grids
        )
        losses = augmented(tuple(grids), PairTerms(**arrays).terms)
    else:
        scores.note("activation traces", TRACED)
        losses = _from_moments(model, samples, grids, config, checkpoint)
    result: Losses = {name: dict.fromkeys(g.widths, 0.0) for name, g in groups.by_name.items()}
    for (name, bits), loss in losses.items():
        result[groups.of_tensor(grids[name, bits].keys[0])][bits] += loss
    return result


def _from_moments(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    grids: Mapping[Candidate, Grid],
    config: QuantizationConfig,
    checkpoint: Checkpoint,
) -> dict[Candidate, float]:
    is_whitened = config.sensitivity == "hawq_v2"
    moments = checkpoint.arrays(
        "activation_moments",
        _moments,
        model=model,
        samples=samples,
        grids=list(grids.values()),
        is_whitened=is_whitened,
        seed=config.seed,
    )
    losses = 0.5 * moments["weighted"]
    if is_whitened:
        losses = 0.5 * moments["traces"] / moments["sizes"] * moments["squares"]
    return dict(zip(grids, losses.tolist(), strict=True))


def _pairs(**inputs: Any) -> dict[str, np.ndarray]:
    return dataclasses.asdict(pair_terms(**inputs))


def _moments(**inputs: Any) -> dict[str, np.ndarray]:
    return dataclasses.asdict(activation_moments(**inputs))


def activation_grids(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    groups: ActivationGroups,
    config: QuantizationConfig,
    histograms: Mapping[Key, Histogram] | None = None,
) -> dict[Candidate, Grid]:
    """(Quantizer name, width) -> what it does, at every candidate width of its group.

    Ranges are those of calibration. Copies in another integer type are left out: they are as wide
    as what they copy, or have 8 bits where their readers do.
    """
    histograms = histograms or calibration_histograms(model, samples)
    ranges = {key: (found.minimum, found.maximum) for key, found in histograms.items()}
    graph = LayerGraph.of(model)
    layers = {call.output: call.layer for call in graph.calls}
    eight = dict.fromkeys((name for g in groups.by_name.values() for name in g.layers), 8)
    bounds = input_ranges(model, config.input_range)
    plan = Plan(graph, eight, ranges, bounds)
    slots = {slot.name: slot for slot in plan.slots.values()}
    grids: dict[Candidate, Grid] = {}
    for name, slot in slots.items():
        source = slot.sources[0]
        values = Histogram.pooled([histograms[key] for key in slot.sources])
        for bits in groups.by_name[groups.of_tensor(source)].widths:
            parameters: tuple[Any, int] | None
            if slot.fixed is None:
                parameters = asymmetric_parameters(*best_range(values, bits=bits), bits=bits)
            elif source in graph.inputs:
                parameters = fixed_by_range(bounds[source[0]], bits)
            else:
                parameters = fixed_parameters(layers[source], bits)
            assert parameters is not None
            scale, zero_point = parameters
            grids[name, bits] = Grid(tuple(slot.sources), float(scale), int(zero_point), bits)
    return grids
