"""Scores of quantized models against the float model's, paired, counted and remembered."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.goals import AccuracyTarget
from tfeptq.selection.factor import Widths
from tfeptq.selection.foresight import Found, Holds, Question, next_choices, question
from tfeptq.settings import shown


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A quantized model's score and by how much it beats what was asked.

    Attributes:
        score: of the quantized model.
        margin: score minus `relative` times the float model's; at least zero where it holds.
        error: standard error of `margin`, over samples, paired; NaN where the metric is one number.
    """

    score: float
    margin: float
    error: float

    @property
    def holds(self) -> bool:
        # A sum of as many equal values may differ in its last bits.
        return self.margin >= -1e-12


class Judge:
    """Decides whether widths hold an accuracy target; each choice is evaluated once.

    Args:
        of_float: what the metric says of the float model, see `float_values`.
        measure: widths -> what it says of a model with these, as quickly as a search needs it.
        measure_all: the same of several choices, side by side; None: one after the other.
    """

    def __init__(
        self,
        target: AccuracyTarget,
        of_float: np.ndarray,
        measure: Callable[[Widths], np.ndarray],
        measure_all: Callable[[Sequence[Widths]], Iterable[np.ndarray]] | None = None,
    ) -> None:
        self._target, self._float = target, of_float
        self._measure, self._measure_all = measure, measure_all
        self._known: dict[Question, Comparison] = {}
        self.float_score = float(self._float.mean())

    @property
    def evaluations(self) -> int:
        return len(self._known)

    def compare(self, model: keras.Model) -> Comparison:
        """The score of one quantized model."""
        return self._compared(metric_values(self._target, model))

    def _compared(self, values: np.ndarray) -> Comparison:
        if values.shape != self._float.shape:
            raise ValueError(
                f"accuracy_target: the metric gave {values.shape} values for the quantized model "
                f"and {self._float.shape} for the float model; it must score the same samples"
            )
        margins = values - self._target.relative * self._float
        return Comparison(float(values.mean()), float(margins.mean()), _standard_error(margins))

    def holds(self, widths: Widths) -> bool:
        key = question(widths)
        if key not in self._known:
            self._known[key] = self._compared(self._measure(widths))
        return self._known[key].holds

    def answer(self, search: Callable[[Holds], Found], at_a_time: int) -> Found:
        """What a search finds; up to so many choices are evaluated side by side."""
        while self._measure_all is not None and at_a_time > 1:
            known = {key: comparison.holds for key, comparison in self._known.items()}
            several = next_choices(search, known, at_a_time)
            if not several:
                break
            for widths, values in zip(several, self._measure_all(several), strict=True):
                self._known[question(widths)] = self._compared(values)
        return search(self.holds)

    def warn_if_too_fine(self, comparison: Comparison) -> None:
        """A drop that is allowed but smaller than the noise cannot be told from none."""
        allowed = (1.0 - self._target.relative) * self.float_score
        if comparison.error > allowed:
            warnings.warn(
                f"the accuracy target allows a drop of {allowed:.2g}, below the standard error "
                f"{comparison.error:.2g} of the comparison on {len(self._float)} samples: give "
                "the metric more samples or relax the target",
                stacklevel=4,
            )

    def unreachable(self) -> ValueError:
        """What to say when nothing that was tried holds the target."""
        found = max(self._known.values(), key=lambda comparison: comparison.margin)
        error = f"(+- {found.error:.2g}) " if np.isfinite(found.error) else ""
        return ValueError(
            f"accuracy_target relative={self._target.relative:g} cannot be reached: even the best "
            f"widths tried, the widest candidates among them, score {found.score:.4g} "
            f"{error}where the float model scores {self.float_score:.4g}. Allow "
            "wider weight_bits, more calibration samples or a lower target"
        )


def float_values(target: AccuracyTarget, model: keras.Model) -> np.ndarray:
    """What the metric says of the float model, float64 (n,).

    Raises:
        ValueError: the metric fails, returns no numbers, or nothing that can be held a part of.
    """
    values = metric_values(target, model)
    if not values.mean() > 0.0:
        raise ValueError(
            f"accuracy_target is relative to the float model's score, which is "
            f"{values.mean():g}; the metric must be positive, higher is better"
        )
    return values


def metric_values(target: AccuracyTarget, model: keras.Model) -> np.ndarray:
    """What the metric says of a model: one value a sample, or one in all, float64 (n,).

    Raises:
        ValueError: it fails, or returns no finite numbers.
    """
    try:
        result: Any = target.metric(model)
    except Exception as error:
        # It is the user's own code: whatever it raises is said, and kept as the cause.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"accuracy_target: the metric failed: {reason}") from error
    try:
        values = np.asarray(result, np.float64).reshape(-1)
    except (TypeError, ValueError):
        values = np.empty(0)
    if not values.size or not np.all(np.isfinite(values)):
        raise ValueError(
            f"accuracy_target: the metric returned {shown(result)}; a finite number or one value a "
            "sample is needed"
        )
    return values


def _standard_error(values: np.ndarray) -> float:
    if values.size < 2:
        return float("nan")
    return float(values.std(ddof=1) / np.sqrt(values.size))
