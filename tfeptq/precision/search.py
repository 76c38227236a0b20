"""The smallest model that holds an accuracy target, learned and verified."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import keras

from tfeptq.config import QuantizationConfig
from tfeptq.model import QuantizedModel
from tfeptq.precision.accuracy import Comparison, Judge
from tfeptq.precision.bisection import Widths, bisect_frontier, bisect_layers
from tfeptq.precision.choice import Choice
from tfeptq.precision.frontier_point import WidthChoice
from tfeptq.precision.goals import AccuracyTarget

#: (configuration with fixed widths, whether the result may be the answer) -> quantized model.
Learn = Callable[[QuantizationConfig, bool], QuantizedModel]


@dataclasses.dataclass(frozen=True)
class SearchReport:
    """How widths were found.

    Attributes:
        evaluations: choices that were quantized and scored on the way.
        comparison: of the model that is returned, after the whole recipe.
        steps_back: choices that held in the search and missed after the whole recipe.
    """

    evaluations: int
    float_score: float
    comparison: Comparison
    steps_back: int


def hold_accuracy(
    model: keras.Model, choice: WidthChoice, config: QuantizationConfig, learn: Learn
) -> tuple[QuantizedModel, SearchReport]:
    """Searches widths, learns the cheapest that hold, and steps back while they miss.

    The search quantizes in the way of `AccuracyTarget.search_steps`; the final model comes from the
    whole recipe and is scored again: it computes what its file will.

    Args:
        model: the float model, as the metric takes it.
        choice: costs and sensitivities of the candidates.
        learn: quantizes with the widths of a configuration; user callbacks see final runs only.

    Raises:
        ValueError: not even the widest candidates hold the target, or what holds it exceeds a
            budget that was given as well.
    """
    target = config.accuracy_target
    assert target is not None
    judge = Judge(
        target,
        model,
        lambda widths: learn(_searching(choice.configured(config, widths), target), False),
    )
    held = bisected(choice, target, judge)
    if not held:
        raise judge.unreachable()
    _check_budget(held[-1], choice, config)
    for steps_back, widths in enumerate(reversed(held)):
        quantized = learn(choice.configured(config, widths), True)
        comparison = judge.compare(quantized)
        if comparison.holds:
            judge.warn_if_too_fine(comparison)
            report = SearchReport(judge.evaluations, judge.float_score, comparison, steps_back)
            return quantized, report
        warnings.warn(
            f"widths that held the accuracy target in the search score {comparison.score:.4g} "
            "after the whole recipe, which misses it: stepping back to wider ones",
            stacklevel=3,
        )
    raise judge.unreachable()


def bisected(choice: WidthChoice, target: AccuracyTarget, judge: Judge) -> list[Widths]:
    """Choices that hold the target, each cheaper than the one before, by the target's search."""
    if target.search == "layers":
        assert isinstance(choice, Choice)
        costs = choice.priced(target.cost)
        return bisect_layers(choice.sensitivity.losses, costs, judge.holds)
    frontier = choice.pareto(target.cost)
    return bisect_frontier(len(frontier), frontier.widths, judge.holds)


def _searching(config: QuantizationConfig, target: AccuracyTarget) -> QuantizationConfig:
    """The recipe of an evaluation: short, or none."""
    if target.search_steps == 0 or config.rounding == "nearest":
        return dataclasses.replace(config, rounding="nearest")
    return dataclasses.replace(config, steps=min(target.search_steps, config.steps))


def _check_budget(widths: Widths, choice: WidthChoice, config: QuantizationConfig) -> None:
    limits = config.budget.limits if config.budget is not None else {}
    found = choice.point(widths).costs
    for name, limit in limits.items():
        if found[name] > limit:
            raise ValueError(
                f"budget {name}={limit:g} and the accuracy target exclude each other: the "
                f"cheapest widths found that hold the target cost {found[name]:g}"
            )
