"""Weight thresholds: how far a channel's weights reach before they are clipped.

tau_c minimises the mean of h_w * (w - Q_tau(w))^2 over the channel (Hmse; EPTQ, section 4.1); with
h_w = 1 that is the plain squared error. Step = tau / 2^(bits - 1).
"""

from __future__ import annotations

import keras
import numpy as np

from tfeptq.canonical import linear
from tfeptq.quantized.weight_grid import UniformGrid, WeightGrid
from tflite_export.graph import limits

#: Candidate thresholds as fractions of the channel's largest weight: a coarse sweep over
#: everything sensible, then refinements around the best of each channel.
_LOWEST, _HIGHEST, _COARSE_STEP = 0.2, 1.2, 0.0125
_REFINEMENTS = (np.linspace(-0.0125, 0.0125, 11), np.linspace(-0.00125, 0.00125, 5))


#: Weights that are searched at once: what is made of them stays in a processor's cache.
_TOGETHER = 2**15


def fitted_grid(
    layer: keras.Layer, scores: np.ndarray | None, *, bits: int, method: str, per_channel: bool
) -> UniformGrid:
    """Grid of the kernel of a weighted primitive, with the steps that suit its weights best.

    Args:
        scores: h_w in the kernel's shape; see `weight_steps`, for `method` too.
    """
    kernel = np.asarray(layer.kernel)
    steps = weight_steps(
        linear.by_channel(layer, kernel),
        None if scores is None else linear.by_channel(layer, scores),
        bits=bits,
        method=method,
        per_channel=per_channel,
    )
    shape = linear.scale_shape(layer, kernel.shape, per_channel=per_channel)
    return UniformGrid(bits, steps.reshape(shape), per_channel)


def weight_steps(
    weights: np.ndarray,
    scores: np.ndarray | None,
    *,
    bits: int,
    method: str,
    per_channel: bool = True,
) -> np.ndarray:
    """Quantization steps, float32, one a channel (or one in all when not `per_channel`).

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
    importance = scores if method == "hmse" and scores is not None else np.ones_like(weights)
    if not per_channel:
        weights, importance = weights.reshape(1, -1), importance.reshape(1, -1)
    largest = largest_weights(weights)
    if method == "max":
        return UniformGrid.holding(largest, bits=bits).step.astype(np.float32)
    rows = max(1, _TOGETHER // weights.shape[1])
    parts = [slice(begin, begin + rows) for begin in range(0, len(weights), rows)]
    thresholds = np.concatenate(
        [
            _search(
                weights[part].astype(np.float64),
                importance[part].astype(np.float64),
                largest[part],
                bits,
            )
            for part in parts
        ]
    )
    return UniformGrid.of_threshold(thresholds, bits=bits).step.astype(np.float32)


def largest_weights(weights: np.ndarray) -> np.ndarray:
    """Largest magnitude of each channel, never zero.

    A channel of much smaller weights than the layer's largest takes a part of these, too small to
    be seen in the layer's output. A layer of zeros takes next to nothing:
    `tfeptq.freeze.kernel_scales` widens it to what suits its input and output.
    """
    largest = np.abs(weights).max(axis=1).astype(np.float64)
    return np.maximum(largest, max(float(largest.max()) * 1e-4, limits.LOWEST_SCALE * 2.0**8))


def _search(
    weights: np.ndarray, importance: np.ndarray, largest: np.ndarray, bits: int
) -> np.ndarray:
    # A channel that no output depends on has no scores: fall back to its plain squared error.
    dead = importance.sum(axis=1, keepdims=True) <= 0.0
    importance = np.where(dead, 1.0, importance)
    thresholds, errors = np.zeros_like(largest), np.full(len(weights), np.inf)
    for fractions in (_coarse(bits), *_REFINEMENTS):
        center = thresholds
        for fraction in fractions:
            candidate = center + fraction * largest
            grid = UniformGrid.of_threshold(candidate[:, None], bits=bits)
            error = weighted_error(weights, importance, grid)
            better = error < errors
            thresholds = np.where(better, candidate, thresholds)
            errors = np.where(better, error, errors)
    return thresholds


def _coarse(bits: int) -> np.ndarray:
    # The positive side is one step short: 2 bits reach a largest weight only at twice its size.
    highest = max(_HIGHEST, UniformGrid.holding(1.0, bits=bits).threshold)
    return np.arange(_LOWEST, highest + _COARSE_STEP / 2, _COARSE_STEP)


def weighted_error(weights: np.ndarray, importance: np.ndarray, grid: WeightGrid) -> np.ndarray:
    """Mean over each channel of importance * (w - Q(w))^2; all (channels, n), (channels,)."""
    return np.mean(importance * np.square(grid.error(weights)), axis=1)
