"""Calibration data in every form that Keras users have it, checked before any work."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np


def take_samples(
    calibration: Any, inputs: Sequence[Any], *, samples: int, seed: int
) -> list[np.ndarray]:
    """At most `samples` inputs, float32, one array (n, ...) a model input.

    Args:
        calibration: one array; a tuple, list or dict of arrays for several inputs; or batches from
            a `keras.utils.PyDataset`, a `tf.data.Dataset` or a generator. Labels of batches
            (inputs, labels) are ignored. Reading stops when there are enough.
        inputs: the model's input tensors.
        seed: of the choice among the samples of arrays that hold more.

    Raises:
        ValueError: nothing there, wrong shape or dtype, NaN or infinity; names the input.
    """
    names = [tensor.name for tensor in inputs]
    if _is_batches(calibration, len(inputs)):
        arrays = _collect(_batches(calibration), names, samples)
    else:
        arrays = _choose(_split(calibration, names), samples, seed)
    checked = [_checked(array, tensor) for array, tensor in zip(arrays, inputs, strict=True)]
    count = len(checked[0])
    if count < samples:
        warnings.warn(
            f"calibration holds {count} samples, {samples} were asked for: {count} are used",
            stacklevel=3,
        )
    return checked


def _is_batches(calibration: Any, inputs: int) -> bool:
    if isinstance(calibration, keras.utils.PyDataset):
        return True
    if isinstance(calibration, (np.ndarray, Mapping, str, bytes)) or hasattr(
        calibration, "__array__"
    ):
        return False
    if isinstance(calibration, (list, tuple)):
        return False
    if isinstance(calibration, Iterable):
        return True
    raise ValueError(
        f"calibration is a {type(calibration).__name__}; pass an array, a tuple, list or dict of "
        "arrays, a PyDataset, a tf.data.Dataset or a generator of batches"
    )


def _batches(calibration: Any) -> Iterator[Any]:
    if isinstance(calibration, keras.utils.PyDataset):
        count = calibration.num_batches
        if count is None:
            raise ValueError("calibration is a PyDataset without a length")
        return (calibration[index] for index in range(count))
    return iter(calibration)


def _collect(batches: Iterator[Any], names: list[str], samples: int) -> list[np.ndarray]:
    """Inputs of batches until there are enough."""
    parts: list[list[np.ndarray]] = []
    count = 0
    for batch in batches:
        parts.append(_split(_without_labels(batch, names), names))
        count += len(parts[-1][0])
        if count >= samples:
            break
    if not parts:
        raise ValueError("calibration yields no batch")
    return [np.concatenate(arrays)[:samples] for arrays in zip(*parts, strict=True)]


def _without_labels(batch: Any, names: list[str]) -> Any:
    """Inputs of a batch that may be (inputs, labels) or (inputs, labels, weights).

    A flat pair is taken as two inputs only where the model has two.
    """
    if not isinstance(batch, tuple) or len(batch) == 1:
        return batch[0] if isinstance(batch, tuple) else batch
    is_nested = isinstance(batch[0], (tuple, list, Mapping))
    return batch if len(batch) == len(names) and not is_nested else batch[0]


def _split(data: Any, names: list[str]) -> list[np.ndarray]:
    """One array a model input."""
    if isinstance(data, Mapping):
        missing = [name for name in names if name not in data]
        if missing:
            raise ValueError(f"calibration lacks the inputs {missing}; it holds {sorted(data)}")
        return [np.asarray(data[name]) for name in names]
    if isinstance(data, (list, tuple)) and (len(names) > 1 or len(data) == 1):
        if len(data) != len(names):
            raise ValueError(f"calibration holds {len(data)} arrays, the model takes {len(names)}")
        return [np.asarray(array) for array in data]
    if len(names) > 1:
        raise ValueError(f"calibration is one array, the model takes the inputs {names}")
    return [np.asarray(data)]


def _choose(arrays: list[np.ndarray], samples: int, seed: int) -> list[np.ndarray]:
    """The same random subset of every array."""
    counts = {len(array) if array.ndim else 0 for array in arrays}
    if len(counts) != 1:
        raise ValueError(f"calibration arrays hold unequal numbers of samples: {sorted(counts)}")
    count = counts.pop()
    if count <= samples:
        return arrays
    chosen = np.sort(np.random.default_rng(seed).choice(count, samples, replace=False))
    return [array[chosen] for array in arrays]


def _checked(array: np.ndarray, tensor: Any) -> np.ndarray:
    where = f"calibration of input {tensor.name!r}"
    expected = tuple(tensor.shape[1:])
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{where} has dtype {array.dtype}; numbers are needed")
    if array.ndim == 0 or array.shape[1:] != expected:
        raise ValueError(f"{where} has shape {array.shape}; expected (samples, *{expected})")
    if not len(array):
        raise ValueError(f"{where} is empty")
    values = np.ascontiguousarray(array, dtype=np.float32)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{where} holds NaN or infinity")
    return values


def load_npz(
    path: str | Path, *, input_key: str | None = None, label_key: str | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Inputs and labels (None where the file has none) of an `.npz` file.

    Args:
        input_key: name of the inputs; by default the first array that is not the labels.
        label_key: name of the labels; by default "y".
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    labels = label_key or "y"
    try:
        with np.load(path) as arrays:
            names = list(arrays)
            key = input_key or next((name for name in names if name != labels), None)
            missing = [name for name in (key, label_key) if name and name not in names]
            if key is None or missing:
                raise ValueError(f"{path}: no array {missing or 'of inputs'}; it holds {names}")
            return arrays[key], arrays[labels] if labels in names else None
    except (OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not an .npz file: {error}") from error
