"""Data of the command line: .npz files, read when they are first needed, and then kept."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfeptq.data.given_arrays import as_array, check_shape
from tfeptq.data.later import Later
from tfeptq.data.samples import load_npz

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass
class Npz:
    """One file of inputs, and of labels if they are needed.

    Attributes:
        path: it must exist already.
        input_key: name of its array of inputs, and `label_key` of that of labels.
        is_labelled: whether labels are needed.
        check: called with the inputs after they were read; raises ValueError for what is wrong.
    """

    path: Path
    input_key: str | None = None
    label_key: str | None = None
    is_labelled: bool = True
    check: Callable[[np.ndarray], None] | None = None

    @functools.cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels; labels are empty where none are needed.

        Raises:
            ValueError: no such arrays, not as many of both, or no finite numbers.
        """
        inputs, labels = load_npz(
            self.path,
            input_key=self.input_key,
            label_key=self.label_key if self.is_labelled else None,
        )
        if not self.is_labelled:
            labels = np.empty(0)
        elif labels is None:
            raise ValueError(f"{self.path}: no labels; name them with --label-key")
        else:
            inputs, labels = _both(self.path, inputs, labels)
        if self.check is not None:
            self.check(inputs)
        return inputs, labels

    @property
    def inputs(self) -> Later:
        return Later(lambda: self.arrays[0])

    @property
    def labels(self) -> Later:
        return Later(lambda: self.arrays[1])

    @property
    def digest_parts(self) -> tuple[np.ndarray, np.ndarray]:
        """What a result depends on: the values, wherever they are kept."""
        return self.arrays


def _both(path: Path, inputs: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    inputs, labels = as_array(inputs, f"{path}: inputs"), as_array(labels, f"{path}: labels")
    if not inputs.ndim or not labels.ndim or len(inputs) != len(labels) or not len(labels):
        raise ValueError(
            f"{path}: inputs of shape {inputs.shape} and labels of shape {labels.shape}; as many "
            "of both are needed, at least one"
        )
    for name, array in (("inputs", inputs), ("labels", labels)):
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{path}: {name} hold NaN or infinity")
    return inputs, labels


@contextlib.contextmanager
def names_file(path: Path) -> Iterator[None]:
    """What is refused of the values of a file has its name in front."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def require_one_end(model: keras.Model, path: Path) -> None:
    """Refuses models that cannot be scored on one array of inputs and one of labels."""
    sources, results = len(model.inputs), len(model.outputs)
    if sources > 1 or results > 1:
        raise ValueError(
            f"{path}: the model has {sources} inputs and {results} outputs; scores are for models "
            "of one input and one output"
        )


def fits(model: keras.Model, path: Path) -> Callable[[np.ndarray], None]:
    """A check of inputs to score a model on."""

    def check(inputs: np.ndarray) -> None:
        known = model.inputs[0].shape[1:]
        # Sizes that the model leaves open are those of the data.
        open_sizes = inputs.shape[1:] if inputs.ndim == 1 + len(known) else known
        expected = [b if a is None else a for a, b in zip(known, open_sizes, strict=True)]
        check_shape(inputs, expected, f"{path}: inputs")

    return check
