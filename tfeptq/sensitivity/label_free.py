"""The label-free estimate: an upper bound by the Jacobian of the logits (EPTQ, section 3)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfeptq.hessian.activations import Grid
from tfeptq.hessian.pairs import Candidate
from tfeptq.sensitivity.activation_moments import moments
from tfeptq.sensitivity.method import Facts, Losses, Method, Sensitivity, nested
from tfeptq.sensitivity.rounding_errors import WeightErrors

NAME = "label_free"


class LabelFree(Method):
    """Half the sum over weights of h_w * e_w^2, h_w = mean ||J_w||^2.

    An upper bound of the diagonal of the loss Hessian up to a constant; it leaves out that the
    errors of a channel add up or cancel. Of activations: half the mean over samples of the sum over
    elements of J^2 e^2: nothing is averaged before errors and curvatures meet.
    """

    def of_weights(self, errors: WeightErrors) -> Sensitivity:
        scores = self.facts.scores.weights
        curvature = {name: float(scores[name].mean()) for name, _ in errors.nearest}
        return Sensitivity(
            NAME, "squared Jacobian of the logits", bounded(errors, scores), curvature
        )

    def of_activations(self, grids: Mapping[Candidate, Grid]) -> dict[Candidate, float]:
        losses = 0.5 * moments(self.facts, grids, is_whitened=False)["weighted"]
        return dict(zip(grids, losses.tolist(), strict=True))


def free_bound(facts: Facts, errors: WeightErrors) -> tuple[Losses, ...]:
    """The losses as a rival of another method's, where rivals are measured; otherwise none."""
    return (bounded(errors, facts.scores.weights),) if facts.config.moves else ()


def bounded(errors: WeightErrors, scores: Mapping[str, np.ndarray]) -> Losses:
    """The losses.

    Args:
        scores: layer name -> h_w in the kernel's shape.
    """
    return nested(
        {
            (name, bits): 0.5
            * errors.shares[name, bits]
            * float(np.sum(scores[name] * np.square(error.kernel, dtype=np.float64)))
            for (name, bits), error in errors.nearest.items()
        }
    )
