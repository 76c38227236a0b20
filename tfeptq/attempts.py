"""Choices of widths tried out by a search, one after the other or side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.canonical.layer_graph import Key
from tfeptq.checkpoint.results import measured_or_kept
from tfeptq.config import QuantizationConfig
from tfeptq.data.samples import Taken
from tfeptq.data.shares import mapped
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.model import QuantizedModel
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.progress import Stopwatch
from tfeptq.recipe import Means, quantized_by
from tfeptq.selection.accuracy import metric_values
from tfeptq.selection.factor import Widths
from tfeptq.selection.variables import planned


@dataclasses.dataclass(frozen=True)
class Attempts:
    """Quantizes one model with widths that a search asks for."""

    means: Means
    plan: QuantizationPlan

    def quantized(
        self, widths: Widths, config: QuantizationConfig, is_final: bool
    ) -> QuantizedModel:
        """With one choice; only the final one shows its training to the user's callbacks."""
        callbacks = self.means.callbacks if is_final else None
        means = dataclasses.replace(self.means, callbacks=callbacks)
        chosen = planned(self.plan, widths)
        return quantized_by(means, chosen, config, Stopwatch(), is_final=is_final)

    def kept(self, widths: Widths, *of: Any) -> np.ndarray:
        """What was measured of a choice before, or is measured now."""
        means = self.means
        return measured_or_kept(means.checkpoint, planned(self.plan, widths), means.samples, *of)

    def scored(self, several: Sequence[Widths], config: QuantizationConfig) -> Iterator[np.ndarray]:
        """What the metric says of models with each of several choices, found side by side."""
        scores = self.means.scores
        # What every choice asks for is computed once, by all workers together.
        for name in ("histograms", *(["attention"] if config.rounding == "eptq" else [])):
            getattr(scores, name)
        inputs = {
            "model": self.plan.model,
            "samples": self.means.samples,
            "states": self.plan.states,
            "config": dataclasses.replace(config, augmentation=None),
            "known": scores.known,
        }
        return mapped(_scoring, inputs, [dict(widths) for widths in several], "candidates")


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
    means, target = Means(Taken(samples), scores), config.accuracy_target
    assert target is not None

    def score(widths: Widths) -> np.ndarray:
        chosen = planned(plan, widths)
        quantized = quantized_by(means, chosen, config, Stopwatch(), is_final=False)
        return metric_values(target, quantized)

    return score
