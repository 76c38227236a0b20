"""How many calibration samples each stage of the recipe looks at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfeptq.settings import NamedSettings, member, shown, whole


@dataclasses.dataclass(frozen=True)
class StageSamples(NamedSettings):
    """Stages that take the first so many samples of a random order, or all where there are fewer.

    All others take them all: ranges, attention, the traces of weights and the distillation.
    `quantized.report.samples` says how many each has used.

    Attributes:
        weight_scores: squared Jacobians of single weights, for thresholds by "hmse" and the
            sensitivity "label_free".
        bias_correction: mean shifts of what layers compute; batches end before, where chance gives
            less than outputs show.
        layer_by_layer: inputs of a layer that "optq" fits its integers to; as many as fit into
            1 GiB.
        rounding_errors: mean inputs of layers, from which the errors of candidate widths follow.
        covariances: inputs of layers, where those errors are made by "optq" or thresholds chosen by
            "output"; as many as fit into 1 GiB.
        pair_terms: products with the Jacobian, for the sensitivity "inter_layer".
        activation_traces: curvature at activations, for candidate widths of theirs.
        measured_moves: outputs that are compared where changes of widths are measured.
        quality: outputs that are compared with the float model's at the end, on samples that were
            held back where there are enough; no more than are in memory at once.

    Example:
        >>> tfeptq.QuantizationConfig(stage_samples={"pair_terms": 128}).stage_samples.pair_terms
        128
    """

    weight_scores: int = 64
    bias_correction: int = 256
    layer_by_layer: int = 1024
    rounding_errors: int = 256
    covariances: int = 512
    pair_terms: int = 512
    activation_traces: int = 256
    measured_moves: int = 256
    quality: int = 32

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = whole(f"stage_samples: {field.name}", getattr(self, field.name), least=1)
            object.__setattr__(self, field.name, value)

    def __str__(self) -> str:
        """As the command line reads it."""
        return ",".join(f"{name}={count}" for name, count in dataclasses.asdict(self).items())


#: What stages look at unless told otherwise.
DEFAULT_STAGES = StageSamples()


def stage_samples(name: str, value: Any) -> StageSamples:
    """A `StageSamples`, or `{stage: samples}`, where stages left out have their defaults.

    Raises:
        ValueError: anything else, with the name of the stage that was probably meant.
    """
    if isinstance(value, StageSamples):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{name}={shown(value)} must be a tfeptq.StageSamples or {{stage: number}}"
        )
    stages = [field.name for field in dataclasses.fields(StageSamples)]
    return StageSamples(**{member(f"{name}: stage", key, stages): n for key, n in value.items()})


def first(samples: int | None, total: int) -> int:
    """How many of `total` samples a stage takes; None: all."""
    return total if samples is None else min(samples, total)
