"""What every candidate width costs: exactly by the ranges of activations, at least without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tfeptq.config import QuantizationConfig
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.selection.costs import Costs, model_costs
from tfeptq.selection.joint import Factor
from tfeptq.selection.joint_costs import cost_factors
from tfeptq.selection.outline import outline


@dataclasses.dataclass(frozen=True)
class Prices:
    """Costs of the weights' widths."""

    plan: QuantizationPlan
    costs: Costs


@dataclasses.dataclass(frozen=True)
class JointPrices:
    """Costs of widths of weights and activations together."""

    plan: QuantizationPlan
    factors: Sequence[Factor]


def prices(plan: QuantizationPlan, config: QuantizationConfig) -> Prices | JointPrices:
    """Costs of the candidates of a plan.

    Without ranges, before any data: what widths cost at least, quickly, and nothing about the size
    of the file.

    Raises:
        ValueError: a latency table that cannot be read or lacks a layer.
    """
    if not plan.chooses_activations:
        graph = outline(plan) if plan.ranges is None else None
        return Prices(plan, model_costs(plan, config.budget, graph=graph))
    return JointPrices(plan, cost_factors(plan, config.budget, of_files=plan.ranges is not None))
