"""What every candidate width costs: exactly by the ranges of activations, at least without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import keras

from tfeptq.config import QuantizationConfig
from tfeptq.plan.activation_groups import ActivationGroups
from tfeptq.plan.sharing import Ranges
from tfeptq.plan.widths import candidate_widths, layer_widths
from tfeptq.selection.costs import Costs, model_costs
from tfeptq.selection.joint import Factor
from tfeptq.selection.joint_costs import cost_factors
from tfeptq.selection.outline import outline


@dataclasses.dataclass(frozen=True)
class Prices:
    """Costs of the weights' widths.

    Attributes:
        candidates: layer name -> widths of its weights, ascending.
    """

    candidates: Mapping[str, tuple[int, ...]]
    costs: Costs


@dataclasses.dataclass(frozen=True)
class JointPrices:
    """Costs of widths of weights and activations together."""

    candidates: Mapping[str, tuple[int, ...]]
    groups: ActivationGroups
    factors: Sequence[Factor]
    ranges: Ranges | None


def prices(
    model: keras.Model, config: QuantizationConfig, ranges: Ranges | None = None
) -> Prices | JointPrices:
    """Costs of the candidates of a canonical model.

    Args:
        config: with candidates; fixed widths of activations are resolved.
        ranges: of the model's tensors. Without them, before any data: what widths cost at least,
            quickly, and nothing about the size of the file.

    Raises:
        ValueError: a layer that can have none of the candidates, or a latency table that cannot be
            read or lacks a layer.
    """
    if not isinstance(config.activation_bits, tuple):
        candidates = candidate_widths(model, config)
        widest = {name: max(widths) for name, widths in candidates.items()}
        graph = outline(model, widest, config) if ranges is None else None
        return Prices(candidates, model_costs(model, candidates, config, ranges, graph=graph))
    groups = ActivationGroups(model, config)
    at_8 = config.at_activations(8)
    if isinstance(config.weight_bits, tuple):
        candidates = candidate_widths(model, at_8)
    else:
        candidates = {name: (bits,) for name, bits in layer_widths(model, at_8).items()}
    factors = cost_factors(model, candidates, groups, config, ranges, of_files=ranges is not None)
    return JointPrices(candidates, groups, factors, ranges)
