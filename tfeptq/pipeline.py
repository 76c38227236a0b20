"""The road from a float Keras model to a quantized one: preparation, choice of widths, recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfeptq.arguments import check_callbacks, given_config, given_model, require_goal
from tfeptq.attempts import Attempts
from tfeptq.before_data import plan_request
from tfeptq.calibrate.lost_features import warn_of_lost_features
from tfeptq.calibrate.odd_samples import warn_of_odd_samples
from tfeptq.calibrate.sequences import single_steps
from tfeptq.checkpoint.steps import Checkpoint, open_checkpoint
from tfeptq.config import QuantizationConfig
from tfeptq.data.samples import Taken, configured_samples
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.hessian.labelled import LabelledLoss
from tfeptq.model import QuantizedModel
from tfeptq.plan.input_ranges import doubts
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prove
from tfeptq.progress import Stopwatch, Verbosity, check_verbose, shown
from tfeptq.recipe import Means, quantized_by
from tfeptq.selection.accuracy import float_values
from tfeptq.selection.choice import Choice
from tfeptq.selection.prepare import labelled_loss, prepare_choice
from tfeptq.selection.search import hold_accuracy
from tfeptq.selection.variables import planned
from tflite_export import targets
from tflite_export.file.atomic import require_folder
from tflite_export.runtimes import isolation


def quantize(
    model: keras.Model,
    calibration: Any,
    config: QuantizationConfig | None = None,
    *,
    callbacks: Sequence[keras.callbacks.Callback] | None = None,
    checkpoint_dir: str | Path | None = None,
    labels: Any = None,
    verbose: Verbosity = "auto",
) -> QuantizedModel:
    """Quantizes a trained Keras model with a few hundred unlabelled samples.

    The same model, samples, configuration and versions give the same bytes; training (rounding
    "eptq") on the same processor with the same number of threads only, in whose order TensorFlow
    sums gradients: otherwise scales and biases differ in their last digits.

    Args:
        model: functional, Sequential or subclassed, built, of any precision; its weights are left
            untouched.
        calibration: unlabelled inputs, as arrays (a tuple or dict for several inputs), a
            `keras.utils.PyDataset`, a `tf.data.Dataset` or a generator of batches.
        config: what to do; the default learns 8-bit weights.
        callbacks: Keras callbacks for the optimisation.
        checkpoint_dir: a folder where finished steps are kept, for one run at a time. A second
            call with the same model, data and configuration goes on there and gives the same
            integers as one that was never stopped; `callbacks` see only the steps that are left,
            none after a run that has finished, and what they remember is their own to keep.
        labels: of the calibration samples, one array in their order, for sensitivity="hawq_v2" with
            candidates of widths: the traces are then those of the loss that `model` was
            compiled with, instead of self-distillation's. Nothing else uses them.
        verbose: 0 says nothing, 1 and "auto" show bars for what takes long, 2 prints a line a
            stage; warnings are Python's own.

    Returns:
        A Keras model that predicts as the integer file will; `tflite_export.export` writes it.

    Raises:
        ValueError: bad data, an unknown layer name, a width the target cannot store, or a budget
            or accuracy target that cannot be met.
        tfeptq.preparation.UnsupportedLayerError: a layer that cannot be placed, by name.

    Example:
        >>> config = tfeptq.QuantizationConfig(weight_bits=4, rounding="nearest", samples=64)
        >>> quantized = tfeptq.quantize(model, samples, config)
        >>> quantized.bit_widths["middle"]
        (4, 8)
        >>> quantized.predict(samples[:3], verbose=0).shape
        (3, 2)
    """
    config = given_config(config)
    model = given_model(model)
    check_callbacks(callbacks)
    require_folder("checkpoint_dir", checkpoint_dir)
    require_goal(config)
    check_verbose(verbose)
    with shown(verbose), open_checkpoint(checkpoint_dir) as checkpoint:
        return _quantize(model, calibration, config, callbacks, checkpoint, labels)


def _quantize(
    model: keras.Model,
    calibration: Any,
    config: QuantizationConfig,
    callbacks: Sequence[keras.callbacks.Callback] | None,
    checkpoint: Checkpoint,
    labels: Any,
) -> QuantizedModel:
    watch = Stopwatch()
    # Who exports the result finds the runtimes that verify it ready.
    isolation.start(*targets.capabilities(config.target).runtimes)
    with watch("prepare"):
        ready = _prepared(model, calibration, config, labels)
    plan, samples = ready.plan, ready.taken.arrays
    scores = FloatScores(plan.model, samples, config.seed, checkpoint, stages=config.stages)
    means = Means(ready.taken, scores, checkpoint, callbacks)
    if not config.has_candidates:
        quantized = quantized_by(means, plan, config, watch)
        quantized.report.config = config
        return quantized
    with watch("sensitivity"):
        choice = prepare_choice(
            plan,
            samples,
            config,
            checkpoint=checkpoint,
            labelled=ready.labelled,
            scores=scores,
            limits=config.budget.limits if config.budget is not None else None,
        )
    if config.accuracy_target is None:
        quantized = _within_budget(means, plan, config, choice, watch)
    else:
        quantized = _holding_accuracy(means, ready, config, choice, watch)
    quantized.report.config, quantized.report.choice = config, choice
    return quantized


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """A model that is planned and proven, with the samples it will be quantized by.

    Attributes:
        scored: the model that an accuracy target's metric sees, with `baseline` its values.
        labelled: the loss of labels, where traces are those of one.
    """

    plan: QuantizationPlan
    taken: Taken
    scored: keras.Model
    baseline: np.ndarray | None
    labelled: LabelledLoss | None


def _prepared(
    model: keras.Model, calibration: Any, config: QuantizationConfig, labels: Any
) -> _Prepared:
    """What needs no data is done and refused first."""
    request = plan_request(model, calibration, config)
    functional, plan = request.functional, request.plan
    labelled = labelled_loss(model, labels, config)
    # What a metric scores has the outputs that were asked for.
    scored = model if config.outputs is None else functional
    target = config.accuracy_target
    baseline = None if target is None else float_values(target, scored)
    calibration = single_steps(functional, calibration, config, labels)
    taken = configured_samples(calibration, plan.model.inputs, config, labels)
    lost = warn_of_lost_features(plan, functional, taken.arrays)
    prove(functional, plan.model, taken.arrays)
    are_rows = [plan.topology.is_index(key) for key in plan.graph.inputs]
    odd = warn_of_odd_samples(functional, taken.arrays, are_rows=are_rows)
    notes = [*lost, *odd, *doubts(plan.model, taken.arrays, plan.input_ranges)]
    taken = dataclasses.replace(taken, notes=(*request.notes, *taken.notes, *notes))
    return _Prepared(plan, taken, scored, baseline, labelled and labelled.of(taken.labels))


def _within_budget(
    means: Means,
    plan: QuantizationPlan,
    config: QuantizationConfig,
    choice: Choice,
    watch: Stopwatch,
) -> QuantizedModel:
    assert config.budget is not None
    with watch("selection"):
        chosen = planned(plan, choice.within(config.budget.limits))
    return quantized_by(means, chosen, config, watch)


def _holding_accuracy(
    means: Means,
    ready: _Prepared,
    config: QuantizationConfig,
    choice: Choice,
    watch: Stopwatch,
) -> QuantizedModel:
    tried = Attempts(means, ready.plan)
    with watch("search"):
        quantized, search = hold_accuracy(
            ready.scored,
            choice,
            config,
            tried.quantized,
            learn_all=tried.scored,
            keep=tried.kept,
            of_float=ready.baseline,
        )
    report = quantized.report
    report.search, report.seconds = search, {**watch.seconds, **report.seconds}
    return quantized
