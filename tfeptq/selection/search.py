"""The smallest model that holds an accuracy target, learned and verified."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import keras
import numpy as np

from tfeptq.config import QuantizationConfig
from tfeptq.data.shares import worker_count
from tfeptq.goals import AccuracyTarget
from tfeptq.model import QuantizedModel
from tfeptq.selection.accuracy import Comparison, Judge, float_values
from tfeptq.selection.bisection import bisect_frontier, bisect_layers, step_back
from tfeptq.selection.choice import Choice
from tfeptq.selection.evaluations import Evaluations, Keep, Learn, LearnAll
from tfeptq.selection.factor import Widths
from tfeptq.selection.foresight import Holds


@dataclasses.dataclass(frozen=True)
class SearchReport:
    """How widths were found.

    Attributes:
        evaluations: choices that were quantized and scored on the way; those that workers scored
            ahead of the search, and in vain, among them.
        comparison: of the model that is returned, after the whole recipe.
        steps_back: choices that missed after the whole recipe, see `bisection.step_back`.
    """

    evaluations: int
    float_score: float
    comparison: Comparison
    steps_back: int


def hold_accuracy(
    model: keras.Model,
    choice: Choice,
    config: QuantizationConfig,
    learn: Learn,
    *,
    learn_all: LearnAll | None = None,
    keep: Keep | None = None,
    of_float: np.ndarray | None = None,
) -> tuple[QuantizedModel, SearchReport]:
    """Searches widths, learns the cheapest that hold, and takes dearer ones where they miss.

    The search quantizes in the way of `AccuracyTarget.search_steps`; the final model comes from the
    whole recipe and is scored again: it computes what its file will.

    Args:
        model: the float model, as the metric takes it.
        choice: costs and sensitivities of the candidates.
        learn: quantizes with chosen widths; user callbacks see final runs only.
        learn_all: quantizes with several choices and scores them, as workers do.
        keep: remembers what evaluations of an earlier run measured.
        of_float: what the metric says of the float model, where somebody has asked it.

    Raises:
        ValueError: not even the widest candidates hold the target, or what holds it exceeds a
            budget that was given as well.
    """
    target = config.accuracy_target
    assert target is not None
    of_float = float_values(target, model) if of_float is None else of_float
    evaluations = Evaluations(
        target, of_float, _searching(config, target), learn=learn, learn_all=learn_all, keep=keep
    )
    several = None if learn_all is None else evaluations.of_several
    judge = Judge(target, of_float, evaluations.of, several)
    ladder = judge.answer(lambda holds: searched(choice, target, holds), worker_count())
    if ladder is None:
        raise judge.unreachable()
    affordable = _affordable(ladder, choice, config)

    def whole_recipe(rung: int) -> QuantizedModel:
        return learn(affordable.widths(rung), config, True)

    trials = _Trials(judge, whole_recipe)
    if step_back(affordable.costs, trials.holds) is None:
        if len(affordable.costs) < len(ladder.costs):
            raise _excluded(choice, ladder, config)
        raise judge.unreachable()
    quantized, comparison = trials.best
    judge.warn_if_too_fine(comparison)
    report = SearchReport(judge.evaluations, judge.float_score, comparison, trials.missed)
    return quantized, report


class _Trials:
    """Whole recipes at rungs of a ladder.

    Attributes:
        best: the last that held, which is the cheapest, and its comparison.
        missed: how many did not hold.
    """

    best: tuple[QuantizedModel, Comparison]

    def __init__(self, judge: Judge, whole_recipe: Callable[[int], QuantizedModel]) -> None:
        self._judge, self._whole_recipe = judge, whole_recipe
        self.missed = 0

    def holds(self, rung: int) -> bool:
        quantized = self._whole_recipe(rung)
        comparison = self._judge.compare(quantized)
        if comparison.holds:
            self.best = quantized, comparison
        else:
            self.missed += 1
            _warn_of_a_miss(comparison)
        return comparison.holds


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Choices from a search's answer up to the most accurate.

    Attributes:
        costs: of each, rising.
        widths: of one.
    """

    costs: np.ndarray
    widths: Callable[[int], Widths]


def searched(choice: Choice, target: AccuracyTarget, holds: Holds) -> Ladder | None:
    """The cheapest choice that holds, by the target's search; None where nothing does."""
    if target.search == "layers":
        names = choice.names(target.cost)
        held = bisect_layers(choice.program, names, holds)[::-1]
        sums = [choice.point(widths).costs[target.cost] for widths in held]
        return Ladder(np.array(sums), held.__getitem__) if held else None
    frontier = choice.pareto(target.cost)
    first = bisect_frontier(frontier.costs, lambda point: holds(frontier.widths(point)))
    if first is None:
        return None
    return Ladder(frontier.costs[first:], lambda rung: frontier.widths(first + rung))


def _warn_of_a_miss(comparison: Comparison) -> None:
    warnings.warn(
        f"widths that promised to hold the accuracy target score {comparison.score:.4g} after the "
        "whole recipe, which misses it: trying wider ones",
        stacklevel=6,
    )


def _searching(config: QuantizationConfig, target: AccuracyTarget) -> QuantizationConfig:
    """The recipe of an evaluation: short, or none."""
    if target.search_steps == 0 or config.rounding != "eptq":
        return dataclasses.replace(config, rounding=config.quick_rounding)
    return dataclasses.replace(config, steps=min(target.search_steps, config.steps))


def _affordable(ladder: Ladder, choice: Choice, config: QuantizationConfig) -> Ladder:
    """The rungs that a budget allows which was given as well."""
    limits = config.budget.limits if config.budget is not None else {}
    if not limits:
        return ladder
    rungs = [
        rung
        for rung in range(len(ladder.costs))
        if all(
            choice.point(ladder.widths(rung)).costs[name] <= limit for name, limit in limits.items()
        )
    ]
    if not rungs:
        raise _excluded(choice, ladder, config)
    return Ladder(ladder.costs[rungs], lambda index: ladder.widths(rungs[index]))


def _excluded(choice: Choice, ladder: Ladder, config: QuantizationConfig) -> ValueError:
    assert config.budget is not None
    limits, found = config.budget.limits, choice.point(ladder.widths(0)).costs
    return ValueError(
        f"budget {', '.join(f'{name}={limit:g}' for name, limit in limits.items())} and the "
        "accuracy target exclude each other: the cheapest widths that promise to hold the target "
        f"cost {', '.join(f'{name}={found[name]:g}' for name in limits)}, and none within the "
        "budget holds it"
    )
