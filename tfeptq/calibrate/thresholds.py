"""Weight thresholds: how far a channel's weights reach before they are clipped.

tau_c minimises the mean of h_w * (w - Q_tau(w))^2 over the channel (Hmse; EPTQ, section 4.1); with
h_w = 1 that is the plain squared error. What Q_tau is, the weight grid says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np

from tfeptq.canonical import linear
from tfeptq.config import WEIGHT_GRIDS
from tfeptq.quantized.weight_grid import WeightGrid
from tflite_export.graph import limits

#: Candidate thresholds as fractions of the channel's largest weight: a coarse sweep over
#: everything sensible, then refinements around the best of each channel, in steps of the sweep.
_LOWEST, _HIGHEST = 0.2, 1.2
_REFINEMENTS = (np.linspace(-1.0, 1.0, 11), np.linspace(-0.1, 0.1, 5))
#: The error of few weights has a dent for each of them; that of so many is smooth.
MANY, STEP_OF_MANY = 128, 0.025
_STEP_OF_FEW = 0.0125

#: Weights that are searched at once: what is made of them stays in a processor's cache.
_TOGETHER = 2**15


def fitted_grid(
    layer: keras.Layer,
    scores: np.ndarray | None,
    *,
    grid: str,
    bits: int,
    method: str,
    per_channel: bool,
) -> WeightGrid:
    """Grid of the kernel of a weighted primitive, with the steps that suit its weights best.

    Args:
        scores: h_w in the kernel's shape; see `fitted_rows`, for `method` too.
        grid: its kind, by its name in `tfeptq.config.WEIGHT_GRIDS`.
    """
    kernel = np.asarray(layer.kernel)
    rows = fitted_rows(
        linear.by_channel(layer, kernel),
        None if scores is None else linear.by_channel(layer, scores),
        kind=WEIGHT_GRIDS.find(grid),
        bits=bits,
        method=method,
        per_channel=per_channel,
    )
    return of_kernel(layer, rows)


def fitted_rows(
    weights: np.ndarray,
    scores: np.ndarray | None,
    *,
    kind: type[WeightGrid],
    bits: int,
    method: str,
    per_channel: bool = True,
) -> WeightGrid:
    """The grid of weights in rows, one float32 step a row, or one in all.

    Args:
        weights: (channels, weights of a channel).
        scores: h_w in the same shape for "hmse"; ignored otherwise.
        method: "hmse", "mse" or "max".
    """
    if method == "hmse" and (scores is None or scores.shape != weights.shape):
        raise ValueError(
            f"hmse needs one score a weight: weights {weights.shape}, "
            f"scores {None if scores is None else scores.shape}"
        )
    importance = scores if method == "hmse" else None
    if not per_channel:
        weights = weights.reshape(1, -1)
        importance = None if importance is None else importance.reshape(1, -1)
    even = np.ones_like(weights) if importance is None else importance
    largest = largest_weights(weights)
    if method == "max":
        grid = kind.holding(largest[:, None], bits=bits, per_channel=per_channel)
        return settled(grid, weights, even)
    rows = max(1, _TOGETHER // weights.shape[1])
    parts = [slice(begin, begin + rows) for begin in range(0, len(weights), rows)]
    thresholds = np.concatenate(
        [
            _search(
                weights[part].astype(np.float64),
                None if importance is None else importance[part].astype(np.float64),
                largest[part],
                bits,
                kind,
            )
            for part in parts
        ]
    )
    grid = kind.of_threshold(thresholds[:, None], bits=bits, per_channel=per_channel)
    return settled(grid, weights, even)


def settled(grid: WeightGrid, weights: np.ndarray, importance: np.ndarray) -> WeightGrid:
    """A grid of rows with float32 steps, and what else it learns of the weights.

    Args:
        weights, importance: in rows, as `WeightGrid.adapted` takes them.
    """
    single = grid.arranged(lambda array: array.astype(np.float32))
    return single.adapted(weights.astype(np.float64), importance.astype(np.float64))


def of_kernel(layer: keras.Layer, rows: WeightGrid) -> WeightGrid:
    """A grid of rows as it is for the kernel of a weighted primitive."""
    shape = linear.scale_shape(layer, tuple(layer.kernel.shape), per_channel=rows.per_channel)
    return rows.arranged(lambda by_row: by_row.reshape(shape))


def largest_weights(weights: np.ndarray) -> np.ndarray:
    """Largest magnitude of each channel, never zero.

    A channel of much smaller weights than the layer's largest takes a part of these, too small to
    be seen in the layer's output. A layer of zeros takes next to nothing:
    `tfeptq.freeze.kernel_scales` widens it to what suits its input and output.
    """
    largest = np.abs(weights).max(axis=1).astype(np.float64)
    return np.maximum(largest, max(float(largest.max()) * 1e-4, limits.LOWEST_SCALE * 2.0**8))


def _search(
    weights: np.ndarray,
    importance: np.ndarray | None,
    largest: np.ndarray,
    bits: int,
    kind: type[WeightGrid],
) -> np.ndarray:
    if importance is not None:
        # A channel that no output depends on has no scores: fall back to its plain squared error.
        dead = importance.sum(axis=1, keepdims=True) <= 0.0
        importance = np.where(dead, 1.0, importance)

    def errors(thresholds: np.ndarray) -> np.ndarray:
        grid = kind.of_threshold(thresholds[:, None], bits=bits)
        return weighted_error(weights, importance, grid)

    step = _STEP_OF_FEW if weights.shape[1] < MANY else STEP_OF_MANY
    return least_thresholds(errors, largest, kind, bits=bits, step=step, refinements=_REFINEMENTS)


def least_thresholds(
    errors: Callable[[np.ndarray], np.ndarray],
    largest: np.ndarray,
    kind: type[WeightGrid],
    *,
    bits: int,
    step: float,
    refinements: Sequence[np.ndarray],
) -> np.ndarray:
    """The candidate of least error for each channel, float64 (channels,).

    Args:
        errors: thresholds (channels,) -> errors (channels,).
        largest: magnitude of each channel's weights, in whose fractions candidates are.
        step: of the sweep over everything sensible, as such a fraction.
        refinements: offsets around the best so far, in this step.
    """
    # The positive side is one step short: 2 bits reach a largest weight only at twice its size.
    highest = max(_HIGHEST, float(kind.holding(1.0, bits=bits).threshold))
    best, least = np.zeros_like(largest), np.full(largest.shape, np.inf)
    for fractions in (
        np.arange(_LOWEST, highest + step / 2, step),
        *(step * offsets for offsets in refinements),
    ):
        center = best
        for fraction in fractions:
            candidate = center + fraction * largest
            found = errors(candidate)
            better = found < least
            best, least = np.where(better, candidate, best), np.where(better, found, least)
    return best


def weighted_error(
    weights: np.ndarray, importance: np.ndarray | None, grid: WeightGrid
) -> np.ndarray:
    """Mean over each channel of importance * (w - Q(w))^2; all (channels, n), (channels,).

    Args:
        importance: None: 1 for all.
    """
    squares = np.square(grid.error(weights))
    return np.mean(squares if importance is None else importance * squares, axis=1)
