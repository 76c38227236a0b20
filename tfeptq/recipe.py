"""The recipe: from a plan with known widths to a quantized model, in the order of the papers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from tfeptq.calibrate.activation_ranges import set_activation_ranges
from tfeptq.calibrate.bias_correction import correct_biases
from tfeptq.checkpoint.results import changed_or_kept, decisive
from tfeptq.checkpoint.steps import Checkpoint
from tfeptq.config import QuantizationConfig
from tfeptq.data.samples import Taken
from tfeptq.freeze.kernel_scales import settle
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.model import QuantizedModel
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.progress import Stopwatch
from tfeptq.quantized.correspondence import require_equal
from tfeptq.quantized.wrap import wrap
from tfeptq.report.quality import report_quality
from tfeptq.report.tensorboard import write_summaries
from tfeptq.rounding.attention import distillation_weights
from tfeptq.rounding.distillation import distil
from tfeptq.rounding.layerwise import round_layer_by_layer
from tfeptq.rounding.safeguard import OutputErrors, kept_if_nearer
from tfeptq.rounding.thresholds import set_thresholds


@dataclasses.dataclass(frozen=True)
class Means:
    """What every quantization of one model is made with, whatever its widths.

    Attributes:
        taken: the samples that are used, and what was noticed about them.
        scores: of the float model, each computed when it is first asked for.
        checkpoint: where finished steps are kept.
        callbacks: of the user, for the distillation.
    """

    taken: Taken
    scores: FloatScores
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    callbacks: Sequence[keras.callbacks.Callback] | None = None

    @property
    def samples(self) -> Sequence[np.ndarray]:
        """One array a model input, float32 (N, ...)."""
        return self.taken.arrays


def quantized_by(
    means: Means,
    plan: QuantizationPlan,
    config: QuantizationConfig,
    watch: Stopwatch,
    *,
    is_final: bool = True,
) -> QuantizedModel:
    """A quantized model with the widths of a plan.

    Args:
        watch: takes the time of every stage.
        is_final: whether the user gets it; otherwise a search only scores it.
    """
    with watch("calibrate"):
        plan = plan.with_ranges(means.scores.ranges)
        quantized = _calibrated(means, plan, config)
    with watch("thresholds"):
        set_thresholds(quantized, plan.model, means.samples, means.scores, config)
        repairs = settle(quantized, is_trained=False)
        quantized.report.add_repairs(repair.sentence() for repair in repairs)
    _round_untrained(quantized, means, plan, config, watch)
    # Without weights there is nothing to learn: ranges are all.
    if config.rounding == "eptq" and quantized.weighted_layers:
        _learn_rounding(quantized, means, plan, config, watch, is_final=is_final)
    report = quantized.report
    report.samples.update(means.scores.used)
    quantized.fold()
    if is_final:
        with watch("quality"):
            report_quality(quantized, plan.model, means.taken, count=config.stages.quality)
        write_summaries(means.callbacks, quantized, means.samples)
    report.seconds = watch.seconds
    return quantized


def _calibrated(means: Means, plan: QuantizationPlan, config: QuantizationConfig) -> QuantizedModel:
    """Quantized layers in the place of float ones, with ranges and the report's first facts."""
    quantized = QuantizedModel(
        *wrap(plan), name=plan.model.name, target=plan.target, asked_outputs=config.outputs
    )
    require_equal(plan.model, quantized, means.samples)
    set_activation_ranges(quantized, plan, means.scores.histograms)
    report = quantized.report
    report.histograms = means.scores.histograms
    report.warnings.extend(means.taken.notes)
    report.samples.update(means.scores.used)
    report.samples["ranges"] = len(means.samples[0])
    return quantized


def _round_untrained(
    quantized: QuantizedModel,
    means: Means,
    plan: QuantizationPlan,
    config: QuantizationConfig,
    watch: Stopwatch,
) -> None:
    """By OPTQ or to nearest, with biases that make up for the mean shift."""
    if config.untrained_rounding == "optq" and quantized.weighted_layers:
        with watch("layer by layer"):
            changed_or_kept(
                means.checkpoint,
                "layer_by_layer",
                round_layer_by_layer,
                quantized,
                model=plan.model,
                samples=means.samples,
                count=config.stages.layer_by_layer,
                corrects_biases=config.bias_correction,
                is_trained_later=config.rounding == "eptq",
            )
    elif config.bias_correction:
        with watch("bias correction"):
            count = config.stages.bias_correction
            correct_biases(quantized, plan.model, means.samples, count=count)


def _learn_rounding(
    quantized: QuantizedModel,
    means: Means,
    plan: QuantizationPlan,
    config: QuantizationConfig,
    watch: Stopwatch,
    *,
    is_final: bool,
) -> None:
    """EPTQ's distillation; what ends further from float than it began is taken back."""
    with watch("attention"):
        attention = distillation_weights(plan.model, means.samples, means.scores, config)
    with watch("distillation"):
        path = _backup(means, plan, config, is_final=is_final)
        count = config.stages.bias_correction
        errors = OutputErrors(plan.model, means.samples, count=count)
        train = functools.partial(
            _train, quantized, means, plan.model, attention, config, path, errors
        )
        found = kept_if_nearer(train, quantized, errors)
        quantized.report.add_warnings([] if found.is_kept else [found.sentence()])
        quantized.report.samples["distillation"] = len(means.samples[0])


def _backup(
    means: Means, plan: QuantizationPlan, config: QuantizationConfig, *, is_final: bool
) -> Path | None:
    """Where a training is kept while it runs."""
    inputs = decisive(plan, means.samples, config)
    if is_final:
        return means.checkpoint.path("training", **inputs)
    # One evaluation of a search follows the other; only its outcome is needed again.
    return means.checkpoint.only_path("search", **inputs)


def _train(
    quantized: QuantizedModel,
    means: Means,
    canonical: keras.Model,
    attention: Sequence[np.ndarray],
    config: QuantizationConfig,
    path: Path | None,
    errors: OutputErrors,
) -> float | None:
    """Returns the error that it leaves, where it is known."""
    distil(quantized, canonical, means.samples, attention, config, means.callbacks, path)
    for layer in quantized.weighted_layers:
        layer.fold()
    for quantizer in quantized.activation_quantizers:
        quantizer.fold()
    if not config.bias_correction:
        return None

    def correct() -> None:
        # Learned integers shift means, which a short training does not find.
        correct_biases(quantized, canonical, means.samples, count=config.stages.bias_correction)

    return kept_if_nearer(correct, quantized, errors).left
