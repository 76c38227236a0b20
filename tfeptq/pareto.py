"""The frontier of predicted loss against cost, for people to choose from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras

from tfeptq.arguments import given_config, given_model
from tfeptq.before_data import plan_request
from tfeptq.calibrate.sequences import single_steps
from tfeptq.checkpoint.steps import open_checkpoint
from tfeptq.config import QuantizationConfig
from tfeptq.data.samples import configured_samples
from tfeptq.goals import timed
from tfeptq.preparation import prove
from tfeptq.progress import Verbosity, check_verbose, shown
from tfeptq.selection.choice import Choice
from tfeptq.selection.frontier_point import FrontierPoint
from tfeptq.selection.prepare import labelled_loss, prepare_choice
from tflite_export.file.atomic import require_folder


def pareto_frontier(
    model: keras.Model,
    calibration: Any,
    config: QuantizationConfig,
    *,
    cost: str = "weight_bytes",
    checkpoint_dir: str | Path | None = None,
    labels: Any = None,
    verbose: Verbosity = "auto",
) -> list[FrontierPoint]:
    """Every undominated choice of widths, from the cheapest to the most accurate.

    Args:
        model: functional or Sequential, built, of any precision; it is left untouched.
        calibration: unlabelled samples, see `tfeptq.quantize`.
        config: `weight_bits` or `activation_bits` must be a tuple of candidates; `budget` is not
            looked at, but for its latency table.
        cost: what the predicted loss is drawn against: "weight_bytes", "bit_operations" or
            "latency_ms", by the budget's table or that of "host"; with candidates of activations
            "activation_bytes" as well.
        checkpoint_dir: where sensitivities are kept.
        labels, verbose: see `tfeptq.quantize`.

    Raises:
        ValueError: no candidates, an unknown cost, or data that do not fit the model.

    Example:
        >>> config = tfeptq.QuantizationConfig(
        ...     weight_bits=(2, 4, 8), sensitivity="label_free", samples=64
        ... )
        >>> points = tfeptq.pareto_frontier(model, samples, config)
        >>> [point.widths["middle"] for point in points]
        [2, 4, 8]
    """
    model = given_model(model)
    config = given_config(config)
    require_folder("checkpoint_dir", checkpoint_dir)
    if not config.has_candidates:
        raise ValueError(
            f"weight_bits={config.weight_bits!r} leaves nothing to choose; give it or "
            "activation_bits a tuple of candidates, for example (2, 3, 4, 8)"
        )
    if cost == "latency_ms":
        config = dataclasses.replace(config, budget=timed(config.budget))
    check_verbose(verbose)
    with shown(verbose):
        return _choice(model, calibration, config, cost, checkpoint_dir, labels).frontier(cost)


def _choice(
    model: keras.Model,
    calibration: Any,
    config: QuantizationConfig,
    cost: str,
    checkpoint_dir: str | Path | None,
    labels: Any,
) -> Choice:
    request = plan_request(model, calibration, config, cost=cost)
    functional, plan = request.functional, request.plan
    labelled = labelled_loss(model, labels, config)
    calibration = single_steps(functional, calibration, config, labels)
    taken = configured_samples(calibration, plan.model.inputs, config, labels)
    labelled = labelled and labelled.of(taken.labels)
    prove(functional, plan.model, taken.arrays)
    with open_checkpoint(checkpoint_dir) as checkpoint:
        return prepare_choice(plan, taken.arrays, config, checkpoint=checkpoint, labelled=labelled)
