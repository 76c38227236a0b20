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
from tfeptq.canonical.layer_graph import Key, LayerGraph
from tfeptq.checkpoint.steps import Checkpoint
from tfeptq.config import QuantizationConfig
from tfeptq.hessian.activations import Grid, activation_moments
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.hessian.labelled import LabelledLoss
from tfeptq.hessian.pairs import Candidate, PairTerms, pair_terms
from tfeptq.hessian.traces import as_arrays, average_traces, from_arrays, tensor_name
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.quantized.quantizers import asymmetric_parameters
from tfeptq.sensitivity.sensitivity import Losses, augmented


def activation_sensitivity(
    plan: QuantizationPlan,
    samples: Sequence[np.ndarray],
    config: QuantizationConfig,
    checkpoint: Checkpoint,
    scores: FloatScores,
    labelled: LabelledLoss | None = None,
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
        labelled: the loss whose traces "hawq_v2" takes; None: self-distillation.
    """
    model = plan.model
    grids = activation_grids(plan, scores.histograms)
    if config.sensitivity == "inter_layer":
        count = config.stages.pair_terms
        scores.note("pair terms", count)
        arrays = checkpoint.arrays(
            "activation_pairs",
            _pairs,
            model=model,
            samples=samples,
            errors=grids,
            count=count,
            seed=config.seed,
        )
        losses = augmented(tuple(grids), PairTerms(**arrays).terms)
    else:
        scores.note("activation traces", config.stages.activation_traces)
        losses = _from_moments(model, samples, grids, config, checkpoint, labelled)
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
    labelled: LabelledLoss | None,
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
    average = moments["traces"] / moments["sizes"]
    if labelled is not None:
        average = _labelled(model, samples, grids, average, config, checkpoint, labelled)
    losses = 0.5 * (average * moments["squares"] if is_whitened else moments["weighted"])
    return dict(zip(grids, losses.tolist(), strict=True))


def _labelled(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    grids: Mapping[Candidate, Grid],
    rough: np.ndarray,
    config: QuantizationConfig,
    checkpoint: Checkpoint,
    loss: LabelledLoss,
) -> np.ndarray:
    """Average traces of every grid's tensors in the loss of labels; zero where it is negative.

    Args:
        rough: the same in self-distillation, to take the noise from the probes.
    """
    by_key = {key: float(t) for g, t in zip(grids.values(), rough, strict=True) for key in g.keys}
    arrays = checkpoint.arrays(
        "labelled_activation_traces",
        _traces,
        model=model,
        samples=samples,
        keys=list(by_key),
        curvatures={tensor_name(key): value for key, value in by_key.items()},
        loss=loss,
        seed=config.seed,
    )
    found, shapes = from_arrays(arrays).mean, LayerGraph.of(model).shapes(model)
    sizes = {key: int(np.prod(shapes[key][1:])) for key in by_key}
    sums = [sum(found[tensor_name(k)] * sizes[k] for k in grid.keys) for grid in grids.values()]
    whole = [sum(sizes[key] for key in grid.keys) for grid in grids.values()]
    return np.maximum(np.array(sums) / np.array(whole), 0.0)


def _traces(*, loss: LabelledLoss, **inputs: Any) -> dict[str, np.ndarray]:
    return as_arrays(average_traces(**inputs, loss=loss, labels=loss.labels))


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
