"""Rounding that makes up for its own errors: OPTQ, also called GPTQ.

Frantar et al., arXiv 2210.17323. The weights of a channel are rounded one after the other, and
what rounding one of them does to the channel's output is taken back, as far as its inputs are
correlated, by those that are still free. With uncorrelated inputs that is nearest rounding.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

from tfeptq.quantized.weight_grid import Bounds, WeightGrid

#: Added to every variance, as a fraction of the mean variance: few samples estimate the covariance
#: of many inputs poorly, and inputs that never vary say nothing about their weights.
DAMPING = 0.02
#: Weights whose errors are handed on one by one; the others get them together.
_BLOCK = 64


def damped(covariance: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """Covariances (groups, K, K) that can be inverted, float64.

    Args:
        damping: fraction of the mean variance that is added to every variance.
    """
    size = covariance.shape[-1]
    variance = np.trace(covariance, axis1=1, axis2=2) / size
    added = np.where(variance > 0.0, damping * variance, 1.0)
    return covariance + added[:, None, None] * np.eye(size)


def compensated_integers(
    weights: np.ndarray,
    grid: WeightGrid,
    covariance: np.ndarray,
    *,
    around: np.ndarray | None = None,
    zeros: np.ndarray | None = None,
) -> np.ndarray:
    """Integers of a grid that lose least of each channel's output, greedily, float64.

    Args:
        weights: (groups, K, channels of a group), float64.
        grid: in the same arrangement, the same for all weights of a channel: its arrays are
            (groups, 1, channels of a group).
        covariance: of the K inputs, (groups, K, K); damped here.
        around: weights in the same shape; only the two integers next to each are allowed.
        zeros: in the same shape, whether an integer must be zero.
    """
    size = weights.shape[1]
    low, high = _bounds(weights.shape, grid, around)
    if zeros is not None:
        low, high = np.where(zeros, 0.0, low), np.where(zeros, 0.0, high)
    # The weights of the strongest inputs are rounded while many others can make up for them.
    order = np.argsort(-np.diagonal(covariance, axis1=1, axis2=2), axis=1, kind="stable")
    feedback = _feedback(damped(_reordered(covariance, order)))
    left, low, high = (
        np.take_along_axis(each, order[:, :, None], axis=1) for each in (weights, low, high)
    )
    integers = np.empty_like(left)
    for begin in range(0, size, _BLOCK):
        block = slice(begin, min(begin + _BLOCK, size))
        rest = slice(block.stop, size)
        factors = feedback[:, block, block]
        bounds = low[:, block], high[:, block]
        integers[:, block], errors = _rounded_block(left[:, block], grid, factors, bounds)
        left[:, rest] -= np.swapaxes(feedback[:, block, rest], 1, 2) @ errors
    result = np.empty_like(integers)
    np.put_along_axis(result, order[:, :, None], integers, axis=1)
    return result


def _bounds(
    shape: tuple[int, ...], grid: WeightGrid, around: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest integer of every weight."""
    low, high = grid.bounds() if around is None else grid.neighbours(around)
    low, high = (np.asarray(each, np.float64) for each in (low, high))
    return np.broadcast_to(low, shape), np.broadcast_to(high, shape)


def _rounded_block(
    left: np.ndarray,
    grid: WeightGrid,
    feedback: np.ndarray,
    bounds: Bounds,
) -> tuple[np.ndarray, np.ndarray]:
    """Integers of some weights, and the errors that the weights behind them have to make up for."""
    left, integers, errors = left.copy(), np.empty_like(left), np.empty_like(left)
    grid = grid.arranged(lambda by_channel: by_channel[:, 0])
    for index in range(left.shape[1]):
        current = left[:, index]
        low, high = (bound[:, index] for bound in bounds)
        integers[:, index] = grid.nearest(current, within=(low, high))
        errors[:, index] = current - grid.values(integers[:, index])
        left[:, index:] -= feedback[:, index, index:, None] * errors[:, None, index]
    return integers, errors


def _reordered(covariance: np.ndarray, order: np.ndarray) -> np.ndarray:
    rows = np.take_along_axis(covariance, order[:, :, None], axis=1)
    return np.take_along_axis(rows, order[:, None, :], axis=2)


def _feedback(covariance: np.ndarray) -> np.ndarray:
    """What an error of 1 in weight i changes in every later weight j, (groups, K, K); 1 at i = j.

    Rows of the upper Cholesky factor U of the inverse, each divided by its diagonal element. The
    inverse of U is the Cholesky factor of the covariance in the reverse order, so that nothing but
    a triangular matrix is inverted.
    """
    root = np.linalg.cholesky(covariance[:, ::-1, ::-1])[:, ::-1, ::-1]
    upper = lapack.dtrtri(root[0], lower=0)[0][None] if len(root) == 1 else np.linalg.inv(root)
    return upper / np.diagonal(upper, axis1=1, axis2=2)[:, :, None]
