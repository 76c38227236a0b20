"""Weights fitted to the inputs that quantized layers before them leave.

What earlier layers lost is made up here, as far as their results still tell (asymmetric
calibration; GPTAQ, arXiv 2504.02692, in closed form). Fitted too closely, weights learn the
rounding errors of just these samples: few samples, or many inputs, bear less. So each half of the
samples judges what the other one gives, and only a fit that helps both is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import linalg

from tfeptq.rounding.gptq import damped
from tfeptq.rounding.input_moments import InputMoments, SplitMoments

#: Strengths of the prior that the weights stay, as fractions of the inputs' mean variance: the
#: strongest first, for a weaker one is tried only where the one before it gained.
RIDGES = (8.0, 1.0, 0.15, 0.02)
#: Inputs from which systems are solved in float32 to judge them, which is all it takes.
_MANY = 128


def refitted(weights: np.ndarray, moments: SplitMoments) -> np.ndarray:
    """Weights that compute most nearly from quantized inputs x what these do from float inputs y.

    Least squares with the given weights as prior, as strong as suits samples that were held back:
    the half that gains less decides. The given weights, where it gains from none.

    Args:
        weights: (groups, K, channels of a group), float64.
    """
    if not moments.halves:
        return weights
    held_back = HeldBack(weights, moments.halves)
    least, best = 0.0, None
    for ridge in RIDGES:
        loss = max(held_back.losses(ridge))
        if loss >= least:
            break
        least, best = loss, ridge
    return weights if best is None else fitted(weights, moments.whole, ridge=best)


def fitted(weights: np.ndarray, moments: InputMoments, *, ridge: float) -> np.ndarray:
    """The least-squares fit with a prior of this strength."""
    gap = (moments.covariance - moments.cross) @ weights
    return weights - _solved(damped(moments.covariance, ridge), gap)


class HeldBack:
    """How fits to each half of the samples suit the other one.

    Args:
        weights: (groups, K, channels of a group), float64.
        halves: moments of both.
    """

    def __init__(self, weights: np.ndarray, halves: Sequence[InputMoments]) -> None:
        size = weights.shape[1]
        variance = float(np.trace(halves[0].covariance, axis1=1, axis2=2).mean()) / size
        # In units in which no sum leaves float32.
        self._unit = variance or 1.0
        dtype = np.float64 if size < _MANY else np.float32
        self._covariances = [(half.covariance / self._unit).astype(dtype) for half in halves]
        self._gaps: list[np.ndarray] = []
        self._slopes: list[np.ndarray] = []
        self._shifts: list[np.ndarray] = []
        for half, judge in (halves, halves[::-1]):
            # The bias that ships is the half's: the other's means are off by so much.
            shift, float_shift = judge.mean - half.mean, judge.float_mean - half.float_mean
            left = (judge.covariance - judge.cross) @ weights
            left = left + np.swapaxes(shift, 1, 2) @ ((shift - float_shift) @ weights)
            gap = (half.covariance - half.cross) @ weights
            self._gaps.append((gap / self._unit).astype(dtype))
            self._slopes.append((left / self._unit).astype(dtype))
            self._shifts.append((shift / np.sqrt(self._unit)).astype(dtype))

    def losses(self, ridge: float) -> list[float]:
        """What the fit to each half adds to the other's squared error, below 0 where it helps."""
        losses = []
        for own, covariance in enumerate(self._covariances):
            regular = damped(covariance, ridge).astype(covariance.dtype)
            change, shift = -_solved(regular, self._gaps[own]), self._shifts[own]
            curved = self._covariances[1 - own] @ change
            curved = curved + np.swapaxes(shift, 1, 2) @ (shift @ change)
            terms = change * (2.0 * self._slopes[own] + curved)
            losses.append(self._unit * float(np.sum(terms, dtype=np.float64)))
        return losses


def _solved(matrices: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solutions of positive definite systems, (groups, K, K) and (groups, K, n)."""
    if len(matrices) > 1:
        return np.linalg.solve(matrices, right)
    factor = linalg.cho_factor(matrices[0], check_finite=False)
    return linalg.cho_solve(factor, right[0], check_finite=False)[None]
