"""Scores of a model or a file on labelled data, with their standard errors."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Score:
    """A metric on a set of samples.

    Attributes:
        metric: "accuracy" or "mean_squared_error".
        error: standard error of `value`.
    """

    metric: str
    value: float
    error: float
    samples: int

    def __str__(self) -> str:
        if self.metric == "accuracy":
            return f"{100 * self.value:.1f} % +- {100 * self.error:.1f}"
        return f"{self.value:.4g} +- {self.error:.2g}"


def score(outputs: np.ndarray | list[np.ndarray], labels: np.ndarray) -> Score:
    """Accuracy of class scores, or the mean squared error of anything else.

    Args:
        outputs: (N, classes) with integer labels or one-hot labels; (N, 1) with labels 0 and 1,
            then a class is 1 above 0.5; otherwise as many values as the labels.

    Raises:
        ValueError: labels that do not fit the outputs.
    """
    if isinstance(outputs, list):
        raise ValueError(f"the model has {len(outputs)} outputs; only one can be scored")
    outputs, labels = np.asarray(outputs), np.asarray(labels)
    if len(outputs) != len(labels):
        raise ValueError(f"{len(labels)} labels for {len(outputs)} samples")
    values = correct(outputs.reshape(len(outputs), -1), labels)
    if values is not None:
        return _summary("accuracy", values)
    if outputs.size != labels.size:
        raise ValueError(f"labels of shape {labels.shape} do not fit outputs of {outputs.shape}")
    squares = np.square(outputs.astype(np.float64) - labels.reshape(outputs.shape))
    return _summary("mean_squared_error", squares.reshape(len(outputs), -1).mean(axis=1))


def correct(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """Whether each prediction (N, classes) is right; None where the labels are not classes."""
    flat = labels.reshape(len(labels), -1)
    is_class = flat.shape[1] == 1 and np.array_equal(flat, np.round(flat))
    is_one_hot = flat.shape[1] > 1 and flat.shape == outputs.shape and _one_hot(flat)
    if is_one_hot:
        return outputs.argmax(axis=1) == flat.argmax(axis=1)
    if not is_class:
        return None
    classes = max(outputs.shape[1], 2)
    if flat.min() < 0 or flat.max() >= classes:
        if outputs.shape[1] == 1:
            return None
        raise ValueError(f"labels {flat.min():g} to {flat.max():g} do not fit {classes} classes")
    if outputs.shape[1] > 1:
        return outputs.argmax(axis=1) == flat[:, 0]
    return (outputs[:, 0] > 0.5) == (flat[:, 0] > 0.5)


def _one_hot(labels: np.ndarray) -> bool:
    return bool(np.all((labels == 0) | (labels == 1)) and np.all(labels.sum(axis=1) == 1))


def _summary(metric: str, values: np.ndarray) -> Score:
    values = values.astype(np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return Score(metric, float(values.mean()), float(error), len(values))
