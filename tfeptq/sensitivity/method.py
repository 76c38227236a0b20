"""What a method of predicting losses is asked, and what it answers.

A method is one class in a module of its own, and a line in `tfeptq.config.SENSITIVITIES`. Its
losses must add up over layers and groups of activations, so that selection can be exact, and those
of weights and activations must be in the same units.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import keras
import numpy as np

from tfeptq.checkpoint.steps import Checkpoint
from tfeptq.config import SENSITIVITIES, QuantizationConfig
from tfeptq.hessian.activations import Grid
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.hessian.labelled import LabelledLoss
from tfeptq.hessian.pairs import Candidate, PairTerms, RoundingError
from tfeptq.sensitivity.rounding_errors import WeightErrors

#: Name -> width -> predicted rise of the loss.
Losses = dict[str, dict[int, float]]


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Predicted losses of all candidates of weights.

    Attributes:
        method: its registered name.
        source: the Hessian behind it, in words, to be reported with results.
        losses: layer name -> width -> predicted rise of the loss, zero or more.
        curvature: layer name -> average curvature, for HAWQ-V2's ordering rule.
        candidates: in the order of `pairs`, if there are any.
        pairs: second-order terms of all pairs of candidates, of methods that know them.
        errors: what each candidate adds to its layer's weights without training.
        rivals: losses by simpler estimates that came for free; their optima are worth measuring.
    """

    method: str
    source: str
    losses: Losses
    curvature: dict[str, float]
    candidates: tuple[Candidate, ...] = ()
    pairs: PairTerms | None = None
    errors: Mapping[Candidate, RoundingError] = dataclasses.field(default_factory=dict)
    rivals: tuple[Losses, ...] = ()

    @property
    def order(self) -> list[str]:
        """Layers by rising curvature."""
        return sorted(self.curvature, key=self.curvature.__getitem__)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a prediction rests on.

    Attributes:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...).
        config: names the method, and says how many samples a stage looks at.
        checkpoint: where what takes long is kept, for every later choice.
        scores: of the model; is told how many samples were used.
        labelled: the loss with labels whose curvature is asked for; None: self-distillation.
    """

    model: keras.Model
    samples: Sequence[np.ndarray]
    config: QuantizationConfig
    checkpoint: Checkpoint
    scores: FloatScores
    labelled: LabelledLoss | None = None


class Method(abc.ABC):
    """Predicts how much the loss rises when weights or activations get a width.

    Attributes:
        takes_labels: whether it can look at the user's own loss and labels.
    """

    takes_labels: ClassVar[bool] = False

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    @staticmethod
    def asked_for(facts: Facts) -> Method:
        """The method that the configuration names."""
        return SENSITIVITIES.find(facts.config.sensitivity)(facts)

    @abc.abstractmethod
    def of_weights(self, errors: WeightErrors) -> Sensitivity:
        """Losses of every layer at every candidate width; `errors` are added by the caller."""

    @abc.abstractmethod
    def of_activations(self, grids: Mapping[Candidate, Grid]) -> dict[Candidate, float]:
        """Losses of every quantizer at every candidate width."""


def nested(losses: Mapping[Candidate, float]) -> Losses:
    """By layer, then by width."""
    result: Losses = {}
    for (name, bits), loss in losses.items():
        result.setdefault(name, {})[bits] = float(loss)
    return result
