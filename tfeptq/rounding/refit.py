"""Weights fitted to the inputs that quantized layers before them leave.

What earlier layers lost is made up here, as far as their results still tell (asymmetric
calibration; GPTAQ, arXiv 2504.02692, in closed form). Fitted too closely, weights learn the
rounding errors of just these samples: few samples, or many inputs, bear less. So each half of the
samples judges what the other one gives, and only a fit that helps both is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfeptq.rounding.gptq import damped
from tfeptq.rounding.input_moments import InputMoments, SplitMoments

#: Strengths of the prior that the weights stay, as fractions of the inputs' mean variance.
RIDGES = (0.02, 0.15, 1.0, 8.0)


def refitted(weights: np.ndarray, moments: SplitMoments) -> np.ndarray:
    """Weights that compute most nearly from quantized inputs x what these do from float inputs y.

    Least squares with the given weights as prior, as strong as suits samples that were held back:
    the half that gains less decides. The given weights, where it gains from none.

    Args:
        weights: (groups, K, channels of a group), float64.
    """
    if not moments.halves:
        return weights
    losses = [max(held_back_losses(weights, moments.halves, ridge=ridge)) for ridge in RIDGES]
    best = int(np.argmin(losses))
    return fitted(weights, moments.whole, ridge=RIDGES[best]) if losses[best] < 0.0 else weights


def fitted(weights: np.ndarray, moments: InputMoments, *, ridge: float) -> np.ndarray:
    """The least-squares fit with a prior of this strength."""
    regular = damped(moments.covariance, ridge)
    return np.linalg.solve(regular, (moments.cross + regular - moments.covariance) @ weights)


def held_back_losses(
    weights: np.ndarray, halves: Sequence[InputMoments], *, ridge: float
) -> list[float]:
    """What the fit to each half adds to the other's squared error, less than 0 where it helps."""
    losses = []
    for half, other in (halves, halves[::-1]):
        change = fitted(weights, half, ridge=ridge) - weights
        judge = other.about(half.mean, half.float_mean)
        slope = (judge.covariance - judge.cross) @ weights
        losses.append(float(np.sum(change * (2.0 * slope + judge.covariance @ change))))
    return losses
