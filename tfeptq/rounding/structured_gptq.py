"""OPTQ for weights that are pruned or clustered (`tfeptq.quantized.weight_structure`).

Weights that are zero are taken out of the problem: what they would have made up for is left to the
others. Weights that have one integer are one variable, whose input is the sum of theirs.
"""

from __future__ import annotations

import numpy as np

from tfeptq.quantized.weight_grid import WeightGrid
from tfeptq.rounding.gptq import compensated_integers, damped

#: Conjugate gradients: what is left after so many steps changes hardly an integer.
_ITERATIONS, _TOLERANCE = 40, 1e-5


def structured_integers(
    weights: np.ndarray,
    targets: np.ndarray,
    grid: WeightGrid,
    covariance: np.ndarray,
    *,
    zeros: np.ndarray,
    shared: np.ndarray | None,
    stays_around: bool,
) -> np.ndarray:
    """Integers that lose least of what `targets` compute, with the structure of `weights`.

    Args:
        weights: (groups, K, channels of a group), float64, the float weights.
        targets: in the same shape, what the integers are fitted to.
        grid: in the same arrangement; its arrays are (groups, 1, channels of a group).
        covariance: of the K inputs, (groups, K, K); damped here.
        zeros: weights whose integer is zero.
        shared: labels: weights of one step with equal labels get one integer; None: none do.
        stays_around: only the two integers next to each weight are allowed.
    """
    is_pruned = bool(zeros.any())
    fitted = weights + _without(zeros, targets - weights, covariance) if is_pruned else targets
    integers = compensated_integers(
        fitted,
        grid,
        covariance,
        around=weights if stays_around else None,
        zeros=zeros if is_pruned else None,
    )
    if shared is None:
        return integers
    channels = np.array(list(np.ndindex(len(weights), weights.shape[2])))
    for together in channels[:, None] if grid.per_channel else channels[None]:
        variables = _variables(zeros, shared, together)
        if variables is not None:
            group, channel = together.T
            values, changes = (each[group, :, channel] for each in (weights, targets - weights))
            integers[group, :, channel] = _of_variables(
                values,
                changes,
                covariance[group],
                variables,
                _of_channel(grid, group[0], channel[0]),
                stays_around=stays_around,
            )
    return integers


def _without(zeros: np.ndarray, change: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """The change of the other weights that computes most nearly what `change` does.

    Least squares for every channel at once: conjugate gradients, scaled by the variances.
    """
    if not (zeros.any() and change.any()):
        return np.where(zeros, 0.0, change)
    matrix = damped(covariance)
    free = np.where(zeros, 0.0, 1.0)
    scale = 1.0 / np.diagonal(matrix, axis1=1, axis2=2)[:, :, None]
    found = change * free
    residual = free * (matrix @ (change - found))
    direction = scale * residual
    power = np.sum(residual * direction, axis=1, keepdims=True)
    enough = _TOLERANCE**2 * power
    for _ in range(_ITERATIONS):
        if np.all(power <= enough):
            break
        curved = free * (matrix @ direction)
        length = power / np.maximum(np.sum(direction * curved, axis=1, keepdims=True), 1e-300)
        found = found + length * direction
        residual = residual - length * curved
        scaled = scale * residual
        power, before = np.sum(residual * scaled, axis=1, keepdims=True), power
        direction = scaled + power / np.maximum(before, 1e-300) * direction
    return found


def _variables(zeros: np.ndarray, shared: np.ndarray, channels: np.ndarray) -> np.ndarray | None:
    """For every weight of the channels (n, 2) the number of its variable, -1 for zeros, (n, K).

    None where no weight has another's integer.
    """
    group, channel = channels.T
    labels = np.where(zeros[group, :, channel], -1, shared[group, :, channel])
    free = labels[labels >= 0]
    known, inverse = np.unique(free, return_inverse=True)
    if len(known) == len(free):
        return None
    variables = np.full(labels.shape, -1)
    variables[labels >= 0] = inverse
    return variables


def _of_channel(grid: WeightGrid, group: int, channel: int) -> WeightGrid:
    """Of one channel alone: its arrays are (1, 1, 1)."""
    return grid.arranged(lambda array: array[group, 0, channel].reshape(1, 1, 1))


def _of_variables(
    values: np.ndarray,
    changes: np.ndarray,
    covariance: np.ndarray,
    variables: np.ndarray,
    grid: WeightGrid,
    *,
    stays_around: bool,
) -> np.ndarray:
    """Integers of the n channels under one scale, (n, K).

    Args:
        values, changes: float weights, and what the targets add to them, (n, K).
        covariance: of each channel's inputs, (n, K, K).
        variables: see `_variables`.
        grid: that all of them are on.
    """
    size = int(variables.max()) + 1
    matrix, right, levels = np.zeros((size, size)), np.zeros(size), np.zeros(size)
    for value, change, inputs, of in zip(values, changes, covariance, variables, strict=True):
        free = np.flatnonzero(of >= 0)
        sums = np.zeros((len(of), size))
        sums[free, of[free]] = 1.0
        products = inputs @ sums
        matrix += sums.T @ products
        right += products.T @ change
        levels[of[free]] = value[free]
    fitted = levels + np.linalg.solve(damped(matrix[None])[0], right)
    found = compensated_integers(
        fitted[None, :, None],
        grid,
        matrix[None],
        around=levels[None, :, None] if stays_around else None,
    )
    return np.append(found, 0.0)[variables]
