"""What a metric says of the choices that a search asks about, each quantized briefly, and once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from tfeptq.config import QuantizationConfig
from tfeptq.goals import AccuracyTarget
from tfeptq.model import QuantizedModel
from tfeptq.selection.accuracy import metric_values
from tfeptq.selection.factor import Widths

#: (widths, recipe, whether the result may be the answer) -> quantized model.
Learn = Callable[[Widths, QuantizationConfig, bool], QuantizedModel]
#: (choices, recipe) -> what the metric says of a model with each; side by side.
LearnAll = Callable[[Sequence[Widths], QuantizationConfig], Iterable[np.ndarray]]
#: (widths, recipe, metric, the float model's values, how to measure) -> values.
Keep = Callable[..., np.ndarray]


class Evaluations:
    """Evaluations of a search, in its own process or side by side.

    Args:
        target: whose metric is asked.
        of_float: what it says of the float model.
        recipe: of an evaluation.
        learn: quantizes with one choice.
        learn_all: quantizes with several choices and scores them, as workers do.
        keep: remembers what evaluations of an earlier run measured.
    """

    def __init__(
        self,
        target: AccuracyTarget,
        of_float: np.ndarray,
        recipe: QuantizationConfig,
        *,
        learn: Learn,
        learn_all: LearnAll | None,
        keep: Keep | None,
    ) -> None:
        self._target, self._of_float, self._recipe = target, of_float, recipe
        self._learn, self._learn_all, self._keep = learn, learn_all, keep

    def of(self, widths: Widths) -> np.ndarray:
        """Of one choice, float64 (n,)."""
        return self._kept(widths, functools.partial(self._measured, widths))

    def of_several(self, several: Sequence[Widths]) -> Iterator[np.ndarray]:
        """Of several choices in turn, those side by side of which nothing is known."""
        assert self._learn_all is not None
        missing = [widths for widths in several if not self._is_kept(widths)]
        found = iter(self._learn_all(missing, self._recipe)) if len(missing) > 1 else None
        for widths in several:
            if found is None or widths not in missing:
                yield self.of(widths)
            else:
                yield self._kept(widths, functools.partial(np.asarray, next(found)))

    def _measured(self, widths: Widths) -> np.ndarray:
        return metric_values(self._target, self._learn(widths, self._recipe, False))

    def _kept(self, widths: Widths, measure: Callable[[], np.ndarray]) -> np.ndarray:
        """What an earlier run measured, or what is measured now and kept."""
        if self._keep is None:
            return measure()
        return self._keep(widths, self._recipe, self._target.metric, self._of_float, measure)

    def _is_kept(self, widths: Widths) -> bool:
        if self._keep is None:
            return False
        try:
            self._kept(widths, _not_kept)
        except _NotKeptError:
            return False
        return True


class _NotKeptError(Exception):
    """Nothing was measured in an earlier run."""


def _not_kept() -> np.ndarray:
    raise _NotKeptError
