"""A choice of widths from a model, its samples and a request: costs and sensitivities together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.checkpoint.steps import Checkpoint
from tfeptq.config import SENSITIVITIES, QuantizationConfig
from tfeptq.data.samples import label_array
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.hessian.labelled import LabelledLoss
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.selection.choice import Choice
from tfeptq.selection.factor import Table, Widths, activations, weights
from tfeptq.selection.prices import prices
from tfeptq.selection.program import Program
from tfeptq.selection.variables import of_kind
from tfeptq.sensitivity.activation_sensitivity import activation_grids, activation_sensitivity
from tfeptq.sensitivity.measured import MeasuredDivergence
from tfeptq.sensitivity.method import Facts, Losses, Sensitivity
from tfeptq.sensitivity.sensitivity import sensitivity


def prepare_choice(
    plan: QuantizationPlan,
    samples: Sequence[np.ndarray],
    config: QuantizationConfig,
    *,
    checkpoint: Checkpoint | None = None,
    labelled: LabelledLoss | None = None,
    scores: FloatScores | None = None,
    limits: Mapping[str, float] | None = None,
) -> Choice:
    """Costs and sensitivities of all candidates of a plan.

    Args:
        samples: one array a model input, float32 (N, ...).
        checkpoint: where sensitivities are kept for every later choice, whatever its budget.
        labelled: the loss that a method which takes labels looks at; None: self-distillation.
        scores: of the plan's model, where somebody else needs them too.
        limits: a budget that will be asked for: what nothing meets is refused at once.
    """
    checkpoint = checkpoint or Checkpoint()
    if scores is None:
        scores = FloatScores(plan.model, samples, config.seed, checkpoint, stages=config.stages)
    if labelled and len(labelled.labels) != len(samples[0]):
        raise ValueError(
            f"calibration holds {len(samples[0])} samples and {len(labelled.labels)} labels"
        )
    plan = plan.with_ranges(scores.ranges)
    program = prices(plan, config.budget)
    check_costs(plan, program, limits=limits or {}, cost=None)
    facts = Facts(plan.model, samples, config, checkpoint, scores, labelled)
    of_weights = sensitivity(plan, facts)
    of_activations = activation_sensitivity(plan, facts) if plan.chooses_activations else {}
    order = [weights(name) for name in of_weights.order] if config.ordered_widths else None
    choice = Choice(
        Program(_table(of_weights.losses, of_activations), program.factors, order),
        plan,
        of_weights,
    )
    if not config.moves:
        return choice
    count = config.stages.measured_moves
    scores.note("measured moves", count)
    # Rivals are in other units than the losses of activations.
    rivals = () if plan.chooses_activations else of_weights.rivals
    return dataclasses.replace(
        choice,
        rivals=[_table(losses, {}) for losses in rivals],
        measure=_divergence(plan, facts, of_weights, count=count),
        moves=config.moves,
    )


def _table(of_weights: Losses, of_activations: Losses) -> Table:
    table = {weights(name): losses for name, losses in of_weights.items()}
    return table | {activations(name): losses for name, losses in of_activations.items()}


def _divergence(
    plan: QuantizationPlan, facts: Facts, of_weights: Sensitivity, *, count: int | None
) -> Callable[[Widths], float]:
    """`MeasuredDivergence` of a choice, or what it was in an earlier run."""
    samples, checkpoint = facts.samples, facts.checkpoint
    grids = activation_grids(plan, facts.scores.histograms) if plan.chooses_activations else {}
    group_of = {name: plan.group_of(grid.keys[0]) for (name, _), grid in grids.items()}
    model, errors = plan.model, of_weights.errors
    measure = MeasuredDivergence(model, samples, errors, grids, count=count)
    key = checkpoint.key(model=model, samples=samples, errors=errors, grids=grids, count=count)

    def measured(widths: Widths) -> float:
        by_group = of_kind(widths, "activations")
        by_quantizer = {name: by_group[group] for name, group in group_of.items()}
        return measure(of_kind(widths, "weights"), by_quantizer)

    def kept(widths: Widths) -> float:
        arrays = checkpoint.arrays(
            "divergence",
            lambda **_: {"value": np.array(measured(widths))},
            of=key,
            widths=sorted(widths.items()),
        )
        return float(arrays["value"])

    return kept


def check_costs(
    plan: QuantizationPlan, program: Program, *, limits: Mapping[str, float], cost: str | None
) -> None:
    """Refuses, before any work, limits that nothing meets and a cost that nobody knows.

    Args:
        program: of the candidates, see `prices`.
        limits: cost name -> bound.
        cost: what a frontier or an accuracy target is about, if there is one.

    Raises:
        ValueError: the smallest possible cost, and the layers that most of it comes from; or the
            costs that there are.
    """
    choice = Choice(program, plan=plan)
    if cost is not None:
        choice.names(cost)
    if limits:
        choice.within(limits)


def labelled_loss(
    model: keras.Model, labels: Any, config: QuantizationConfig
) -> LabelledLoss | None:
    """What labels are for: sensitivities in the model's own loss, by methods that take it.

    Args:
        labels: as they were given, one array; those of the samples that are taken come later.

    Raises:
        ValueError: labels that nothing takes, or a model without a loss.
    """
    if labels is None:
        return None
    takes_labels = SENSITIVITIES.find(config.sensitivity).takes_labels
    if not takes_labels or not config.has_candidates:
        able = [name for name in SENSITIVITIES if SENSITIVITIES.find(name).takes_labels]
        raise ValueError(
            f"labels are taken by sensitivity={' or '.join(map(repr, able))} alone, to choose "
            "widths from a tuple "
            f"of candidates; received sensitivity={config.sensitivity!r}, "
            f"weight_bits={config.weight_bits!r}, activation_bits={config.activation_bits!r}"
        )
    if config.outputs is not None:
        raise ValueError(
            "labels are for the loss that the model was compiled with, on its own outputs; "
            f"outputs={config.outputs!r} leaves them out: leave one of them out"
        )
    return LabelledLoss(model, label_array(labels))
