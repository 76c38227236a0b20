"""Weight thresholds: how far a channel's weights reach before they are clipped.

tau_c minimises the mean of h_w * (w - Q_tau(w))^2 over the channel (Hmse; EPTQ, section 4.1); with
h_w = 1 that is the plain squared error. Step = tau / 2^(bits - 1).
"""

from __future__ import annotations

import numpy as np

from tfeptq.canonical.integer_types import weight_range
from tflite_export.graph import limits

#: Candidate thresholds as fractions of the channel's largest weight: a coarse sweep over
#: everything sensible, then refinements around the best of each channel.
_LOWEST, _HIGHEST, _COARSE_STEP = 0.2, 1.2, 0.0125
_REFINEMENTS = (np.linspace(-0.0125, 0.0125, 11), np.linspace(-0.00125, 0.00125, 5))


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
    largest = _largest(weights)
    if method == "max":
        return (largest / weight_range(bits)[1]).astype(np.float32)
    thresholds = _search(weights.astype(np.float64), importance.astype(np.float64), largest, bits)
    return (thresholds / 2 ** (bits - 1)).astype(np.float32)


def _largest(weights: np.ndarray) -> np.ndarray:
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
            error = weighted_error(
                weights, importance, steps=candidate / 2 ** (bits - 1), bits=bits
            )
            better = error < errors
            thresholds = np.where(better, candidate, thresholds)
            errors = np.where(better, error, errors)
    return thresholds


def _coarse(bits: int) -> np.ndarray:
    # The positive side is one step short: 2 bits reach a largest weight only at twice its size.
    highest = max(_HIGHEST, 2 ** (bits - 1) / (2 ** (bits - 1) - 1))
    return np.arange(_LOWEST, highest + _COARSE_STEP / 2, _COARSE_STEP)


def weighted_error(
    weights: np.ndarray, importance: np.ndarray, *, steps: np.ndarray, bits: int
) -> np.ndarray:
    """Mean over each channel of importance * (w - Q(w))^2; all (channels, n), steps (channels,)."""
    low, high = weight_range(bits)
    scaled = weights / steps[:, None]
    error = (np.clip(np.round(scaled), low, high) - scaled) * steps[:, None]
    return np.mean(importance * np.square(error), axis=1)
