"""The road from a float Keras model to a quantized one, in the order of the papers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfeptq.arguments import (
    check_callbacks,
    deployed_shape,
    given_config,
    given_model,
    require_goal,
)
from tfeptq.before_data import look_ahead
from tfeptq.calibrate.activation_ranges import set_activation_ranges
from tfeptq.calibrate.bias_correction import correct_biases
from tfeptq.calibrate.lost_features import warn_of_lost_features
from tfeptq.calibrate.odd_samples import warn_of_odd_samples
from tfeptq.calibrate.sequences import single_steps
from tfeptq.canonical.layer_graph import Key
from tfeptq.checkpoint.results import changed_or_kept, decisive, measured_or_kept
from tfeptq.checkpoint.steps import Checkpoint, open_checkpoint
from tfeptq.config import QuantizationConfig
from tfeptq.data.samples import Taken, configured_samples
from tfeptq.data.shares import mapped
from tfeptq.freeze.kernel_scales import settle
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.model import QuantizedModel
from tfeptq.plan.input_ranges import doubts
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import as_functional, prepare, prove
from tfeptq.progress import Stopwatch, Verbosity, check_verbose, shown
from tfeptq.quantized.correspondence import require_equal
from tfeptq.quantized.wrap import wrap
from tfeptq.report.quality import report_quality
from tfeptq.report.tensorboard import write_summaries
from tfeptq.rounding.attention import distillation_weights
from tfeptq.rounding.distillation import distil
from tfeptq.rounding.layerwise import round_layer_by_layer
from tfeptq.rounding.safeguard import kept_if_nearer
from tfeptq.rounding.thresholds import set_thresholds
from tfeptq.selection.accuracy import float_values, metric_values
from tfeptq.selection.factor import Widths
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
        shape = deployed_shape(model, calibration, config)
        functional = as_functional(model, shape, config.outputs)
        canonical = prepare(functional, config)
        plan = QuantizationPlan.of(canonical, config, original=functional)
        ahead = look_ahead(plan, config)
        labelled = labelled_loss(model, labels, config)
        # What a metric scores has the outputs that were asked for.
        model = model if config.outputs is None else functional
        target = config.accuracy_target
        baseline = None if target is None else float_values(target, model)
        calibration = single_steps(functional, calibration, config, labels)
        taken = configured_samples(calibration, canonical.inputs, config, labels)
        samples, labelled = taken.arrays, labelled and labelled.of(taken.labels)
        lost = warn_of_lost_features(plan, functional, samples)
        prove(functional, canonical, samples)
        odd = warn_of_odd_samples(functional, samples)
        notes = [*lost, *odd, *doubts(canonical, samples, plan.input_ranges)]
        taken = dataclasses.replace(taken, notes=(*ahead, *taken.notes, *notes))
    scores = FloatScores(canonical, samples, config.seed, checkpoint, stages=config.stages)
    learn = functools.partial(_learn, taken, scores, checkpoint)
    if not config.has_candidates:
        quantized = learn(plan, config, callbacks, watch)
        quantized.report.config = config
        return quantized
    with watch("sensitivity"):
        limits = config.budget.limits if config.budget is not None else None
        choice = prepare_choice(plan, samples, config, checkpoint, labelled, scores, limits=limits)
    if config.accuracy_target is None:
        assert config.budget is not None
        with watch("selection"):
            chosen = planned(plan, choice.within(config.budget.limits))
        quantized = learn(chosen, config, callbacks, watch)
        quantized.report.config, quantized.report.choice = config, choice
        return quantized

    def attempt(widths: Widths, recipe: QuantizationConfig, is_final: bool) -> QuantizedModel:
        shown = callbacks if is_final else None
        return learn(planned(plan, widths), recipe, shown, Stopwatch(), is_final=is_final)

    def keep(widths: Widths, *of: Any) -> np.ndarray:
        return measured_or_kept(checkpoint, planned(plan, widths), samples, *of)

    def learn_all(several: Sequence[Widths], recipe: QuantizationConfig) -> Iterator[np.ndarray]:
        return _scored(plan, taken, scores, recipe, [dict(widths) for widths in several])

    with watch("search"):
        quantized, search = hold_accuracy(model, choice, config, attempt, keep, baseline, learn_all)
    report = quantized.report
    report.config, report.choice, report.search = config, choice, search
    report.seconds = {**watch.seconds, **report.seconds}
    return quantized


def _scored(
    plan: QuantizationPlan,
    taken: Taken,
    scores: FloatScores,
    config: QuantizationConfig,
    several: Sequence[Widths],
) -> Iterator[np.ndarray]:
    """What the metric says of models with each of several choices, found side by side."""
    # What every choice asks for is computed once, by all workers together.
    needed = ["histograms", *(["attention"] if config.rounding == "eptq" else [])]
    for name in needed:
        getattr(scores, name)
    inputs = {
        "model": plan.model,
        "samples": taken.arrays,
        "states": plan.states,
        "config": dataclasses.replace(config, augmentation=None),
        "known": scores.known,
    }
    return mapped(_scoring, inputs, several, "candidates")


def _scoring(
    model: keras.Model,
    samples: list[np.ndarray],
    states: Mapping[Key, Key],
    config: QuantizationConfig,
    known: Mapping[str, Any],
) -> Callable[[Widths], np.ndarray]:
    """Quantizes with a choice of widths and scores it; a worker has a copy of everything."""
    plan = QuantizationPlan.of(model, config, states=states)
    scores = FloatScores(model, samples, config.seed, stages=config.stages, known=known)
    taken, target = Taken(samples), config.accuracy_target
    assert target is not None

    def score(widths: Widths) -> np.ndarray:
        chosen = planned(plan, widths)
        quantized = _learn(
            taken, scores, Checkpoint(), chosen, config, None, Stopwatch(), is_final=False
        )
        return metric_values(target, quantized)

    return score


def _learn(
    taken: Taken,
    scores: FloatScores,
    checkpoint: Checkpoint,
    plan: QuantizationPlan,
    config: QuantizationConfig,
    callbacks: Sequence[keras.callbacks.Callback] | None,
    watch: Stopwatch,
    *,
    is_final: bool = True,
) -> QuantizedModel:
    """The whole recipe with widths that are known."""
    samples, canonical = taken.arrays, plan.model
    with watch("calibrate"):
        plan = plan.with_ranges(scores.ranges)
        quantized = _wrapped(plan, samples)
        set_activation_ranges(quantized, plan, scores.histograms)
        quantized.report.histograms = scores.histograms
    quantized.report.warnings.extend(taken.notes)
    used = quantized.report.samples
    used.update(scores.used)
    used["ranges"] = len(samples[0])
    with watch("thresholds"):
        set_thresholds(quantized, canonical, samples, scores, config)
        repairs = settle(quantized, is_trained=False)
        quantized.report.add_repairs(repair.sentence() for repair in repairs)
    # Without weights there is nothing to round: ranges are all.
    has_weights = bool(quantized.weighted_layers)
    if has_weights and config.untrained_rounding == "optq":
        with watch("layer by layer"):
            changed_or_kept(
                checkpoint,
                "layer_by_layer",
                round_layer_by_layer,
                quantized,
                model=canonical,
                samples=samples,
                count=config.stages.layer_by_layer,
                corrects_biases=config.bias_correction,
                is_trained_later=config.rounding == "eptq",
            )
    elif config.bias_correction:
        with watch("bias correction"):
            correct_biases(quantized, canonical, samples, count=config.stages.bias_correction)
    if has_weights and config.rounding == "eptq":
        with watch("attention"):
            attention = distillation_weights(canonical, samples, scores, config)
        with watch("distillation"):
            inputs = decisive(plan, samples, config)
            # One evaluation of a search follows the other; only its outcome is needed again.
            path = (
                checkpoint.path("training", **inputs)
                if is_final
                else checkpoint.only_path("search", **inputs)
            )
            train = functools.partial(
                _train, quantized, canonical, samples, attention, config, callbacks, path
            )
            found = kept_if_nearer(
                train, quantized, canonical, samples, count=config.stages.bias_correction
            )
            quantized.report.add_warnings([] if found.is_kept else [found.sentence()])
            used["distillation"] = len(samples[0])
    used.update(scores.used)
    quantized.fold()
    if is_final:
        with watch("quality"):
            report_quality(quantized, canonical, taken, count=config.stages.quality)
        write_summaries(callbacks, quantized, samples)
    quantized.report.seconds = watch.seconds
    return quantized


def _train(
    quantized: QuantizedModel,
    canonical: keras.Model,
    samples: Sequence[np.ndarray],
    attention: Sequence[np.ndarray],
    config: QuantizationConfig,
    callbacks: Sequence[keras.callbacks.Callback] | None,
    path: Path | None,
) -> None:
    distil(quantized, canonical, samples, attention, config, callbacks, path)
    for layer in quantized.weighted_layers:
        layer.fold()
    for quantizer in quantized.activation_quantizers:
        quantizer.fold()
    if config.bias_correction:
        # Learned integers shift means, which a short training does not find.
        count = config.stages.bias_correction
        correct = functools.partial(correct_biases, quantized, canonical, samples, count=count)
        kept_if_nearer(correct, quantized, canonical, samples, count=count)


def _wrapped(plan: QuantizationPlan, samples: Sequence[np.ndarray]) -> QuantizedModel:
    quantized = QuantizedModel(*wrap(plan), name=plan.model.name, target=plan.target)
    require_equal(plan.model, quantized, samples)
    return quantized
