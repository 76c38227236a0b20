"""Which layer gets which width: candidates, costs and sensitivities come together here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.checkpoint.steps import Checkpoint
from tfeptq.config import QuantizationConfig
from tfeptq.data.samples import label_array
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.hessian.labelled import LabelledLoss
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.selection.costs import Costs, LayerCosts
from tfeptq.selection.frontier import Frontier, pareto
from tfeptq.selection.frontier_point import BitWidths, FrontierPoint, WidthChoice
from tfeptq.selection.joint_choice import JointChoice, prepare_joint_choice, without_losses
from tfeptq.selection.prices import JointPrices, Prices, prices
from tfeptq.selection.refinement import refined
from tfeptq.selection.selection import select
from tfeptq.sensitivity.measured import MeasuredDivergence
from tfeptq.sensitivity.sensitivity import Losses, Sensitivity, sensitivity


@dataclasses.dataclass(frozen=True)
class Choice:
    """Everything that a choice of the weights' widths rests on.

    Attributes:
        order: layers by rising average trace, for HAWQ-V2's rule.
        measure: loss of a choice by measurement, to improve the predicted one; None: it stays.
        moves: most measurements for that, see `tfeptq.selection.refinement`.
    """

    costs: Costs
    sensitivity: Sensitivity
    order: list[str] | None
    measure: Callable[[Mapping[str, int]], float] | None = None
    moves: int = 0

    @property
    def source(self) -> str:
        return f"{self.sensitivity.method}: {self.sensitivity.source}"

    @property
    def cost_names(self) -> tuple[str, ...]:
        return tuple(self.costs.tables)

    def within(self, limits: Mapping[str, float]) -> dict[str, int]:
        """Layer name -> width, of least predicted loss under every limit, improved as measured.

        Raises:
            ValueError: a limit that nothing meets, with the smallest possible.
        """
        additive = {name: limit for name, limit in limits.items() if name in self.costs.tables}
        self._check_activations(limits.get("activation_bytes"))
        if not additive:
            return {layer: max(entries) for layer, entries in self.sensitivity.losses.items()}
        losses, tables = self.sensitivity.losses, self.costs.tables
        constants = self.costs.constants

        def best(predicted: Losses) -> dict[str, int]:
            return self._named(
                select(predicted, tables, additive, constants=constants, order=self.order)
            )

        if self.measure is None:
            return best(losses)
        starts = [best(predicted) for predicted in (losses, *self.sensitivity.rivals)]
        left = {name: limit - constants.get(name, 0.0) for name, limit in additive.items()}
        return refined(starts, losses, tables, left, self.measure, moves=self.moves)

    def frontier(self, cost: str) -> list[FrontierPoint]:
        """All undominated choices of loss against one cost, the cheapest first."""
        points = self.pareto(cost)
        return [self.point(points.widths(i)) for i in range(len(points))]

    def pareto(self, cost: str) -> Frontier:
        """The same choices, their widths not spelled out."""
        return pareto(self.sensitivity.losses, self.priced(cost), order=self.order)

    def priced(self, cost: str) -> LayerCosts:
        """Layer name -> width -> cost. Raises ValueError for what widths do not decide."""
        self.require_cost(cost)
        return self.costs.tables[cost]

    def require_cost(self, cost: str) -> None:
        """Raises ValueError for what the weights' widths do not decide."""
        if cost not in self.costs.tables:
            raise ValueError(
                f"{cost!r} is no cost to choose by: the weights' widths do not decide it, or no "
                f"latency table is given; there are {', '.join(self.costs.tables)}"
            )

    def point(self, widths: Mapping[str, int]) -> FrontierPoint:
        """Predicted loss and costs of layer name -> width."""
        losses = self.sensitivity.losses
        loss = sum(losses[layer][bits] for layer, bits in widths.items())
        return FrontierPoint(
            self._named(widths), loss, self.costs.of(widths), self.costs.file_bytes(widths)
        )

    def point_of(self, bit_widths: BitWidths) -> FrontierPoint:
        """The same of a quantized model's `bit_widths`."""
        weighted = {layer: bits for layer, (bits, _) in bit_widths.items() if bits is not None}
        return self.point(weighted)

    def configured(
        self, config: QuantizationConfig, widths: Mapping[str, int]
    ) -> QuantizationConfig:
        """`config` with these widths instead of candidates and goals."""
        return dataclasses.replace(
            config, weight_bits=dict(widths), budget=None, accuracy_target=None
        )

    def _named(self, widths: Mapping[str, int]) -> dict[str, int]:
        """In the model's order, whatever order the layers were decided in."""
        return {layer: widths[layer] for layer in self.sensitivity.losses}

    def _check_activations(self, limit: float | None) -> None:
        if limit is not None and self.costs.activation_bytes > limit:
            raise ValueError(
                f"budget activation_bytes={limit:g} cannot be met: {self.costs.activation_bytes} "
                "bytes of activations are alive at once, whatever the widths of the weights, the "
                f"largest of them {_listed(self.costs.largest_activations)}; activation_bits and "
                "the size of the inputs decide that"
            )


def _listed(parts: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {size}" for name, size in parts)


def prepare_choice(
    plan: QuantizationPlan,
    samples: Sequence[np.ndarray],
    config: QuantizationConfig,
    checkpoint: Checkpoint | None = None,
    labelled: LabelledLoss | None = None,
    scores: FloatScores | None = None,
    *,
    limits: Mapping[str, float] | None = None,
) -> WidthChoice:
    """Costs and sensitivities of all candidates of a plan.

    Args:
        plan: of a request with candidates.
        checkpoint: where sensitivities are kept for every later choice, whatever its budget.
        labelled: the loss behind the traces of "hawq_v2"; None: self-distillation.
        scores: of the plan's model, where somebody else needs them too.
        limits: a budget that will be asked for: what nothing meets is refused at once.
    """
    checkpoint = checkpoint or Checkpoint()
    model = plan.model
    if scores is None:
        scores = FloatScores(model, samples, config.seed, checkpoint, stages=config.stages)
    if labelled and len(labelled.labels) != len(samples[0]):
        raise ValueError(
            f"calibration holds {len(samples[0])} samples and {len(labelled.labels)} labels"
        )
    found = prices(plan.with_ranges(scores.ranges), config)
    check_costs(config, found, limits=limits or {}, cost=None)
    if isinstance(found, JointPrices):
        return prepare_joint_choice(samples, config, scores, checkpoint, found)
    result = sensitivity(found.plan, samples, config, checkpoint, scores, labelled)
    if config.ordered_widths:
        return Choice(found.costs, result, result.order)
    if not config.moves:
        return Choice(found.costs, result, None)
    scores.note("measured moves", config.stages.measured_moves)
    measure = _kept_divergences(model, samples, result, checkpoint, config.stages.measured_moves)
    return Choice(found.costs, result, None, measure, config.moves)


def _kept_divergences(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    found: Sensitivity,
    checkpoint: Checkpoint,
    count: int,
) -> Callable[[Mapping[str, int]], float]:
    """`MeasuredDivergence` of widths, or what it was in an earlier run."""
    measure = MeasuredDivergence(model, samples, found.errors, count=count)
    key = checkpoint.key(model=model, samples=samples, errors=found.errors, count=count)

    def kept(widths: Mapping[str, int]) -> float:
        arrays = checkpoint.arrays(
            "divergence",
            lambda **_: {"value": np.array(measure(widths))},
            of=key,
            widths=sorted(widths.items()),
        )
        return float(arrays["value"])

    return kept


def check_costs(
    config: QuantizationConfig,
    costs: Prices | JointPrices,
    *,
    limits: Mapping[str, float],
    cost: str | None,
) -> None:
    """Refuses, before any work, limits that nothing meets and a cost that nobody knows.

    Args:
        costs: of the candidates, see `prices`.
        limits: cost name -> bound.
        cost: what a frontier or an accuracy target is about, if there is one.

    Raises:
        ValueError: the smallest possible cost, and the layers that most of it comes from; or the
            costs that there are.
    """
    choice: Choice | JointChoice
    if isinstance(costs, JointPrices):
        choice = without_losses(config, costs)
    else:
        losses = {name: dict.fromkeys(bits, 0.0) for name, bits in costs.plan.candidates.items()}
        choice = Choice(costs.costs, Sensitivity("", "costs", losses, {}), None)
    if cost is not None:
        choice.require_cost(cost)
    if limits:
        choice.within(limits)


def labelled_loss(
    model: keras.Model, labels: Any, config: QuantizationConfig
) -> LabelledLoss | None:
    """What labels are for: the traces of "hawq_v2" in the model's own loss.

    Args:
        labels: as they were given, one array; those of the samples that are taken come later.

    Raises:
        ValueError: labels that nothing takes, or a model without a loss.
    """
    if labels is None:
        return None
    if (
        config.sensitivity != "hawq_v2"
        or isinstance(config.activation_bits, tuple)
        or not config.has_candidates
    ):
        raise ValueError(
            "labels are taken by sensitivity='hawq_v2' alone, to choose weight_bits from a tuple "
            f"of candidates; received sensitivity={config.sensitivity!r}, "
            f"weight_bits={config.weight_bits!r}, activation_bits={config.activation_bits!r}"
        )
    return LabelledLoss(model, label_array(labels))
