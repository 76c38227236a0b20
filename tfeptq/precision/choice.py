"""Which layer gets which width: candidates, costs and sensitivities come together here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfeptq.checkpoint import Checkpoint, open_checkpoint
from tfeptq.config import QuantizationConfig
from tfeptq.data import configured_samples, label_array
from tfeptq.float_scores import FloatScores
from tfeptq.graph import prepare, prove
from tfeptq.hessian.labelled import LabelledLoss
from tfeptq.input_ranges import input_ranges
from tfeptq.precision.activation_groups import ActivationGroups
from tfeptq.precision.activations import resolve_activations
from tfeptq.precision.costs import Costs, LayerCosts, model_costs
from tfeptq.precision.frontier import Frontier, pareto
from tfeptq.precision.frontier_point import BitWidths, FrontierPoint, WidthChoice
from tfeptq.precision.joint_choice import prepare_joint_choice
from tfeptq.precision.measured import MEASURED, MeasuredDivergence
from tfeptq.precision.refinement import refined
from tfeptq.precision.selection import select
from tfeptq.precision.sensitivity import Losses, Sensitivity, sensitivity
from tfeptq.precision.widths import candidate_widths, layer_widths


@dataclasses.dataclass(frozen=True)
class Choice:
    """Everything that a choice of the weights' widths rests on.

    Attributes:
        order: layers by rising average trace, for HAWQ-V2's rule.
        measure: loss of a choice by measurement, to improve the predicted one; None: it stays.
        moves: most measurements for that, see `tfeptq.precision.refinement`.
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
        if cost not in self.costs.tables:
            raise ValueError(
                f"{cost!r} is no cost to choose by: the weights' widths do not decide it, or no "
                f"latency table is given; there are {', '.join(self.costs.tables)}"
            )
        return self.costs.tables[cost]

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
                "bytes of activations are alive at once, whatever the widths of the weights; "
                "activation_bits and the size of the inputs decide that"
            )


def prepare_choice(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    config: QuantizationConfig,
    checkpoint: Checkpoint | None = None,
    labelled: LabelledLoss | None = None,
    scores: FloatScores | None = None,
) -> WidthChoice:
    """Costs and sensitivities of all candidates of a canonical model.

    Args:
        checkpoint: where sensitivities are kept for every later choice, whatever its budget.
        labelled: the loss behind the traces of "hawq_v2"; None: self-distillation.
        scores: of `model`, where somebody else needs them too.
    """
    checkpoint = checkpoint or Checkpoint()
    scores = scores or FloatScores(model, samples, config.seed, checkpoint)
    if isinstance(config.activation_bits, tuple):
        return prepare_joint_choice(model, samples, config, scores, checkpoint)
    if labelled and len(labelled.labels) != len(samples[0]):
        raise ValueError(
            f"calibration holds {len(samples[0])} samples and {len(labelled.labels)} labels"
        )
    candidates = candidate_widths(model, config)
    costs = model_costs(model, candidates, config, scores.ranges)
    result = sensitivity(model, samples, candidates, config, checkpoint, scores, labelled)
    if config.ordered_widths:
        return Choice(costs, result, result.order)
    if not config.moves:
        return Choice(costs, result, None)
    scores.note("measured moves", MEASURED)
    measure = MeasuredDivergence(model, samples, result.errors)
    return Choice(costs, result, None, measure, config.moves)


def check_widths(model: keras.Model, config: QuantizationConfig) -> None:
    """Refuses, before any work, widths that a canonical model or its target cannot have.

    And ranges of inputs that it does not have.

    Raises:
        ValueError: names the layer or input, what was asked and what is allowed.
    """
    if isinstance(config.activation_bits, tuple):
        ActivationGroups(model, config)
        config = dataclasses.replace(config, activation_bits=8)
    layer_widths(model, resolve_activations(model, config))
    input_ranges(model, config.input_range)


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


def pareto_frontier(
    model: keras.Model,
    calibration: Any,
    config: QuantizationConfig,
    *,
    cost: str = "weight_bytes",
    checkpoint_dir: str | Path | None = None,
    labels: Any = None,
) -> list[FrontierPoint]:
    """Every undominated choice of widths, from the cheapest to the most accurate.

    Args:
        model: functional or Sequential, built, float32; it is left untouched.
        calibration: unlabelled samples, see `tfeptq.quantize`.
        config: `weight_bits` or `activation_bits` must be a tuple of candidates; `budget` is not
            looked at, but for its latency table.
        cost: what the predicted loss is drawn against: "weight_bytes", "bit_operations" or
            "latency_ms"; with candidates of activations "activation_bytes" instead of times.
        checkpoint_dir: where sensitivities are kept.
        labels: see `tfeptq.quantize`.

    Raises:
        ValueError: no candidates, an unknown cost, or data that do not fit the model.
    """
    if not config.has_candidates:
        raise ValueError(
            f"weight_bits={config.weight_bits!r} leaves nothing to choose; give it or "
            "activation_bits a tuple of candidates, for example (2, 3, 4, 8)"
        )
    canonical = prepare(model)
    input_ranges(canonical, config.input_range)
    labelled = labelled_loss(model, labels, config)
    if not isinstance(config.activation_bits, tuple):
        config = resolve_activations(canonical, config)
    taken = configured_samples(calibration, canonical.inputs, config, labels)
    labelled = labelled and labelled.of(taken.labels)
    prove(model, canonical, taken.arrays)
    with open_checkpoint(checkpoint_dir) as checkpoint:
        choice = prepare_choice(canonical, taken.arrays, config, checkpoint, labelled)
    return choice.frontier(cost)
