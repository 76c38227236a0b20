"""Widths of weights and activations chosen together, under the same budgets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from tfeptq.checkpoint.steps import Checkpoint
from tfeptq.config import QuantizationConfig
from tfeptq.goals import Budget
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.selection.frontier_point import BitWidths, FrontierPoint
from tfeptq.selection.joint import Factor, Program, Variable, Widths
from tfeptq.selection.joint_costs import activations, step_names, weights
from tfeptq.selection.prices import JointPrices
from tfeptq.selection.skeleton import file_bytes, peak_activation_bytes, skeleton
from tfeptq.sensitivity.activation_sensitivity import activation_sensitivity
from tfeptq.sensitivity.sensitivity import sensitivity
from tflite_export.graph.structure import IntegerGraph

#: Points of a frontier: an optimum each, at budgets in equal steps.
POINTS = 33
#: Attempts to meet a bound of activation bytes that the program underestimates.
_ATTEMPTS = 5


@dataclasses.dataclass(frozen=True)
class Points:
    """Undominated choices, from the cheapest to the most accurate.

    Attributes:
        costs, losses: float64 (points,); costs rise, losses fall.
    """

    costs: np.ndarray
    losses: np.ndarray
    _choices: tuple[Widths, ...]

    def __len__(self) -> int:
        return len(self._choices)

    def widths(self, point: int) -> Widths:
        return self._choices[point]


class JointChoice:
    """Like `tfeptq.selection.choice.Choice`; widths are keyed by variables of the program.

    Args:
        losses: variable -> width -> predicted loss.
        factors: tables of all costs.
        budget: of the request.
        source: what the losses rest on, in words.
    """

    cost_names = ("weight_bytes", "activation_bytes", "bit_operations")

    def __init__(
        self,
        plan: QuantizationPlan,
        losses: Mapping[Variable, Mapping[int, float]],
        factors: Sequence[Factor],
        budget: Budget | None,
        source: str,
    ) -> None:
        self.source = source
        self._plan, self._budget = plan, budget
        self._program = Program(losses, factors)
        self._steps = step_names(factors)

    @functools.cached_property
    def _frame(self) -> int:
        """Bytes of a file beside those that the program counts."""
        narrow = self._program.least(["file_bytes"])
        return self._exact_file_bytes(narrow) - int(self._program.cost(narrow, "file_bytes"))

    def within(self, limits: Mapping[str, float]) -> Widths:
        """Widths of least predicted loss under every limit.

        Activation bytes are those of the integer graph itself: where they exceed what the program
        counted, it gets a tighter bound.

        Raises:
            ValueError: a limit that nothing meets, with the smallest possible.
        """
        bound = dict(limits)
        for _ in range(_ATTEMPTS):
            widths = self._program.best(self._spread(bound))
            if widths is None:
                break
            if "activation_bytes" not in limits:
                return widths
            excess = self._exact_activation_bytes(widths) - limits["activation_bytes"]
            if excess <= 0:
                return widths
            bound["activation_bytes"] -= excess
        raise self._impossible(limits)

    def frontier(self, cost: str) -> list[FrontierPoint]:
        """Undominated choices of loss against one cost, at budgets in `POINTS` equal steps."""
        points = self.pareto(cost)
        return [self.point(points.widths(i)) for i in range(len(points))]

    def pareto(self, cost: str) -> Points:
        """The same choices, their widths not spelled out."""
        names = self._names(cost)
        least = self._largest(self._program.least(names), names)
        free = self._program.best({})
        assert free is not None
        chosen: list[tuple[float, float, Widths]] = []
        for limit in np.linspace(least, self._largest(free, names), POINTS):
            # What is exactly possible must not fail by rounding.
            widths = self._program.best(self._spread({cost: limit * (1 + 1e-9)}))
            if widths is None:
                continue
            loss = self._program.loss(widths)
            if not chosen or loss < chosen[-1][1]:
                chosen.append((self._largest(widths, names), loss, widths))
        costs, losses, choices = zip(*chosen, strict=True)
        return Points(np.array(costs), np.array(losses), choices)

    def point(self, widths: Widths) -> FrontierPoint:
        """Predicted loss of widths, and their costs as the program counts them."""
        costs = {name: self._largest(widths, self._names(name)) for name in self.cost_names}
        return FrontierPoint(
            self._of_weights(widths),
            self._program.loss(widths),
            costs,
            int(self._program.cost(widths, "file_bytes")) + self._frame,
            self._of_activations(widths),
        )

    def point_of(self, bit_widths: BitWidths) -> FrontierPoint:
        """The same of a quantized model's `bit_widths`."""
        widths: Widths = {
            weights(name): bits for name, (bits, _) in bit_widths.items() if bits is not None
        }
        for name in self._plan.groups:
            widths[activations(name)] = bit_widths[name][1]
        return self.point(widths)

    def configured(
        self, config: QuantizationConfig, widths: Mapping[Variable, int]
    ) -> QuantizationConfig:
        """`config` with fixed widths instead of candidates and goals."""
        return dataclasses.replace(
            config,
            weight_bits=self._of_weights(widths),
            activation_bits=self._of_activations(widths),
            budget=None,
            accuracy_target=None,
        )

    def _of_weights(self, widths: Mapping[Variable, int]) -> dict[str, int]:
        return {name: bits for (kind, name), bits in widths.items() if kind == "weights"}

    def _of_activations(self, widths: Mapping[Variable, int]) -> dict[str, int]:
        return {
            layer: widths[activations(group.name)]
            for group in self._plan.groups.values()
            for layer in group.layers
        }

    def _names(self, cost: str) -> list[str]:
        if cost == "activation_bytes":
            return self._steps
        if cost in self.cost_names:
            return [cost]
        raise ValueError(
            f"{cost!r} is no cost to choose activations by; there are {', '.join(self.cost_names)}"
        )

    def _spread(self, limits: Mapping[str, float]) -> dict[str, float]:
        return {name: limit for cost, limit in limits.items() for name in self._names(cost)}

    def _largest(self, widths: Mapping[Variable, int], names: Sequence[str]) -> float:
        return max(self._program.cost(widths, name) for name in names)

    def _graph(self, widths: Widths) -> IntegerGraph:
        by_group = {name: bits for (kind, name), bits in widths.items() if kind == "activations"}
        chosen = self._plan.with_widths(weights=self._of_weights(widths), activations=by_group)
        return skeleton(chosen)

    def _exact_activation_bytes(self, widths: Widths) -> int:
        return peak_activation_bytes(self._graph(widths))

    def _exact_file_bytes(self, widths: Widths) -> int:
        is_compressed = self._budget is not None and self._budget.compressed
        return file_bytes(self._graph(widths), self._plan.target, slim=is_compressed)

    def _impossible(self, limits: Mapping[str, float]) -> ValueError:
        for cost, limit in limits.items():
            names = self._names(cost)
            least = self._program.least(names)
            smallest = self._largest(least, names)
            if cost == "activation_bytes":
                smallest = self._exact_activation_bytes(least)
            if smallest > limit:
                return ValueError(
                    f"budget {cost}={limit:g} cannot be met: the smallest possible is "
                    f"{smallest:g}; the largest parts are {self._parts(least, names)}. Allow "
                    "narrower weight_bits, activation_bits or first_last_bits, or a larger budget"
                )
        bounds = ", ".join(f"{name}={limit:g}" for name, limit in limits.items())
        return ValueError(
            f"no choice of widths meets the budget {bounds} at once, though each bound alone can "
            "be met"
        )

    def _parts(self, widths: Widths, names: Sequence[str]) -> str:
        """Layers that the largest of the costs comes from."""
        name = max(names, key=lambda each: self._program.cost(widths, each))
        parts = sorted(self._program.parts(widths, name), key=lambda part: -part[1])[:3]
        return ", ".join(
            f"{layer} {value:g} at {widths[kind, layer]} bits"
            for (kind, layer), value in parts
            if value > 0
        )

    def require_cost(self, cost: str) -> None:
        """Raises ValueError for what these widths do not decide."""
        self._names(cost)


def prepare_joint_choice(
    samples: Sequence[np.ndarray],
    config: QuantizationConfig,
    scores: FloatScores,
    checkpoint: Checkpoint,
    prices: JointPrices,
) -> JointChoice:
    """Costs and sensitivities of all candidates of weights and activations.

    Raises:
        ValueError: what cannot be combined with candidates of activations.
    """
    refuse_unsupported(config)
    losses: dict[Variable, Mapping[int, float]] = {}
    of_weights = sensitivity(prices.plan, samples, config, checkpoint, scores)
    losses.update({weights(name): table for name, table in of_weights.losses.items()})
    of_activations = activation_sensitivity(prices.plan, samples, config, checkpoint, scores)
    losses.update({activations(name): table for name, table in of_activations.items()})
    source = f"{of_weights.method}: {of_weights.source}"
    return JointChoice(prices.plan, losses, prices.factors, config.budget, source)


def without_losses(config: QuantizationConfig, prices: JointPrices) -> JointChoice:
    """What can be said of costs alone: every choice loses nothing."""
    refuse_unsupported(config)
    losses: dict[Variable, Mapping[int, float]] = {
        weights(name): dict.fromkeys(widths, 0.0) for name, widths in prices.plan.candidates.items()
    }
    for name, group in prices.plan.groups.items():
        losses[activations(name)] = dict.fromkeys(group.widths, 0.0)
    return JointChoice(prices.plan, losses, prices.factors, config.budget, "costs")


def refuse_unsupported(config: QuantizationConfig) -> None:
    if config.ordered_widths:
        raise ValueError("ordered_widths orders weights: give activation_bits one width")
    limits = config.budget.limits if config.budget is not None else {}
    if "latency_ms" in limits or (
        config.accuracy_target and config.accuracy_target.cost == "latency_ms"
    ):
        raise ValueError(
            "latency tables hold 8-bit activations only: give activation_bits one width, or bound "
            "bit_operations"
        )
    if config.accuracy_target is not None and config.accuracy_target.search == "layers":
        raise ValueError(
            "AccuracyTarget(search='layers') orders weights: with candidates of activations use "
            "search='frontier'"
        )
