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
from tfeptq.calibrate.ranges import best_range
from tfeptq.canonical.layer_graph import Key
from tfeptq.checkpoint.steps import Checkpoint
from tfeptq.config import QuantizationConfig
from tfeptq.hessian.activations import Grid, activation_moments
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.hessian.pairs import Candidate, PairTerms, pair_terms
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.quantized.quantizers import asymmetric_parameters
from tfeptq.sensitivity.sensitivity import Losses, augmented


def activation_sensitivity(
    plan: QuantizationPlan,
    samples: Sequence[np.ndarray],
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
        samples: one array a model input, float32 (N, ...).
        checkpoint: where curvatures are kept.
        scores: of the plan's model; is told how many samples were used.
    """
    model = plan.model
    grids = activation_grids(plan, scores.histograms)
    if config.sensitivity == "inter_layer":
        count = config.stages.pair_terms
        scores.note("pair terms", count)
        arrays = checkpoint.arrays(
            "activation_pairs", _pairs, model=model, samples=samples, errors=grids, count=count
        )
        losses = augmented(tuple(grids), PairTerms(**arrays).terms)
    else:
        scores.note("activation traces", config.stages.activation_traces)
        losses = _from_moments(model, samples, grids, config, checkpoint)
    result: Losses = {name: dict.fromkeys(g.widths, 0.0) for name, g in plan.groups.items()}
    for (name, bits), loss in losses.items():
        result[plan.group_of(grids[name, bits].keys[0])][bits] += loss
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
        count=config.stages.activation_traces,
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
    plan: QuantizationPlan, histograms: Mapping[Key, Histogram]
) -> dict[Candidate, Grid]:
    """(Quantizer name, width) -> what it does, at every candidate width of its group.

    Ranges are those of calibration. Copies in another integer type are left out: they are as wide
    as what they copy, or have 8 bits where their readers do.

    Args:
        histograms: of every tensor of the file.
    """
    ranges = {key: (found.minimum, found.maximum) for key, found in histograms.items()}
    plan = plan.with_ranges(ranges).with_widths(activations=dict.fromkeys(plan.groups, 8))
    grids: dict[Candidate, Grid] = {}
    for name, quantizer in {t.quantizer.name: t.quantizer for t in plan.tensors.values()}.items():
        values = Histogram.pooled([histograms[key] for key in quantizer.sources])
        for bits in plan.groups[plan.group_of(quantizer.sources[0])].widths:
            parameters: tuple[Any, int] | None = plan.fixed_parameters(quantizer, bits)
            if parameters is None:
                parameters = asymmetric_parameters(*best_range(values, bits=bits), bits=bits)
            scale, zero_point = parameters
            grids[name, bits] = Grid(quantizer.sources, float(scale), int(zero_point), bits)
    return grids
