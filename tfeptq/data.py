"""Calibration data in every form that Keras users have it, checked before any work."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

    from tfeptq.config import QuantizationConfig

#: What NumPy raises on damaged files, and on pickled objects, which are never loaded.
_UNREADABLE = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error)


def configured_samples(
    calibration: Any, inputs: Sequence[Any], config: QuantizationConfig
) -> list[np.ndarray]:
    """`take_samples` with the settings of a configuration."""
    return take_samples(
        calibration,
        inputs,
        samples=config.samples,
        seed=config.seed,
        augmentation=config.augmentation,
    )


def take_samples(
    calibration: Any,
    inputs: Sequence[Any],
    *,
    samples: int,
    seed: int,
    augmentation: keras.Layer | None = None,
) -> list[np.ndarray]:
    """At most `samples` inputs, float32, one array (n, ...) a model input.

    Args:
        calibration: one array; a tuple, list or dict of arrays for several inputs; or batches from
            a `keras.utils.PyDataset`, a `tf.data.Dataset` or a generator. Labels of batches
            (inputs, labels) are ignored. Reading stops when there are enough.
        inputs: the model's input tensors.
        seed: of the choice among the samples of arrays that hold more, and of the copies.
        augmentation: fills them up to `samples`, see `tfeptq.augmentation`.

    Raises:
        ValueError: nothing there, wrong shape or dtype, NaN or infinity; names the input.
    """
    if _is_batches(calibration):
        arrays = _collect(_batches(calibration), inputs, samples)
    else:
        arrays = _choose(_checked(calibration, inputs), samples, seed)
    floats = [_floats(array, tensor) for array, tensor in zip(arrays, inputs, strict=True)]
    count = len(floats[0])
    if augmentation is not None:
        return _filled(floats, augmentation, samples=samples, seed=seed)
    if count < samples:
        warnings.warn(
            f"calibration holds {count} samples, {samples} were asked for: {count} are used",
            stacklevel=4,
        )
    return floats


def _filled(
    arrays: list[np.ndarray], augmentation: keras.Layer, *, samples: int, seed: int
) -> list[np.ndarray]:
    if len(arrays[0]) == samples:
        warnings.warn(
            f"augmentation is not used: calibration holds the {samples} samples that were asked "
            "for; ask for several times as many",
            stacklevel=5,
        )
        return arrays
    from tfeptq.augmentation import with_copies

    return with_copies(arrays, augmentation, count=samples, seed=seed)


def take_labels(
    labels: Any,
    calibration: Any,
    inputs: Sequence[Any],
    *,
    samples: int,
    seed: int,
    is_augmented: bool = False,
) -> np.ndarray:
    """Labels of the samples that `take_samples` takes, (n, ...).

    Args:
        labels: one array in the order of all samples of `calibration`.
        is_augmented: samples are filled up with copies, which have the labels of their origins.

    Raises:
        ValueError: not one label a sample, or no numbers.
    """
    array = np.asarray(labels)
    if array.dtype.kind not in "fiub" or array.ndim == 0:
        raise ValueError(
            f"labels have dtype {array.dtype}, shape {array.shape}; one array of numbers is needed"
        )
    if not _is_batches(calibration):
        count = len(_checked(calibration, inputs)[0])
        if len(array) != count:
            raise ValueError(f"calibration holds {count} samples and {len(array)} labels")
        array = _choose([array], samples, seed)[0]
    if is_augmented and len(array) < samples:
        from tfeptq.augmentation import origins

        return array[origins(len(array), samples, seed)]
    return array[:samples]


def _is_batches(calibration: Any) -> bool:
    """Whether it is read batch by batch; otherwise it holds all samples as arrays."""
    if _is_py_dataset(calibration):
        return True
    if isinstance(calibration, (list, tuple, Mapping, str, bytes)):
        return False
    if hasattr(calibration, "__array__"):
        return False
    if isinstance(calibration, Iterable):
        return True
    raise ValueError(
        f"calibration is a {type(calibration).__name__}; pass an array, a tuple, list or dict of "
        "arrays, a PyDataset, a tf.data.Dataset or a generator of batches"
    )


def _is_py_dataset(calibration: Any) -> bool:
    # The command line reads .npz files, and refuses bad ones, before it waits for TensorFlow.
    import keras

    return isinstance(calibration, keras.utils.PyDataset)


def _batches(calibration: Any) -> Iterator[Any]:
    if not _is_py_dataset(calibration):
        return iter(calibration)
    count = calibration.num_batches
    if count is None:
        raise ValueError("calibration is a PyDataset without a length")
    return (calibration[index] for index in range(count))


def _collect(batches: Iterator[Any], inputs: Sequence[Any], samples: int) -> list[np.ndarray]:
    """Inputs of batches until there are enough."""
    parts: list[list[np.ndarray]] = []
    count = 0
    for batch in batches:
        parts.append(_checked(_without_labels(batch, len(inputs)), inputs))
        count += len(parts[-1][0])
        if count >= samples:
            break
    if not parts:
        raise ValueError("calibration yields no batch")
    return [np.concatenate(arrays)[:samples] for arrays in zip(*parts, strict=True)]


def _without_labels(batch: Any, inputs: int) -> Any:
    """Inputs of a batch that may be (inputs, labels) or (inputs, labels, weights).

    A flat pair is taken as two inputs only where the model has two.
    """
    if not isinstance(batch, tuple):
        return batch
    is_nested = isinstance(batch[0], (tuple, list, Mapping)) if batch else False
    return batch if len(batch) == inputs and not is_nested else batch[0]


def _checked(data: Any, inputs: Sequence[Any]) -> list[np.ndarray]:
    """One array (n, ...) a model input, of equal n; not converted yet, it may be large."""
    arrays = _split(data, [tensor.name for tensor in inputs])
    for array, tensor in zip(arrays, inputs, strict=True):
        _check(array, tensor)
    counts = sorted({len(array) for array in arrays})
    if len(counts) > 1:
        raise ValueError(f"calibration arrays hold unequal numbers of samples: {counts}")
    return arrays


def _split(data: Any, names: list[str]) -> list[np.ndarray]:
    """One array a model input."""
    if isinstance(data, Mapping):
        missing = [name for name in names if name not in data]
        if missing:
            raise ValueError(f"calibration lacks the inputs {missing}; it holds {sorted(data)}")
        return [np.asarray(data[name]) for name in names]
    if isinstance(data, (list, tuple)) and (len(names) > 1 or len(data) == 1):
        if len(data) != len(names):
            raise ValueError(f"calibration holds {len(data)} arrays, the model takes {names}")
        return [np.asarray(array) for array in data]
    if len(names) > 1:
        raise ValueError(f"calibration is one array, the model takes the inputs {names}")
    try:
        return [np.asarray(data)]
    except ValueError as error:
        raise ValueError(
            f"calibration is a {type(data).__name__} of {len(data)} unequal parts, the model takes "
            f"one input, {names[0]!r}; pass its samples as one array, without labels"
        ) from error


def _choose(arrays: list[np.ndarray], samples: int, seed: int) -> list[np.ndarray]:
    """The same random subset of every array."""
    count = len(arrays[0])
    if count <= samples:
        return arrays
    chosen = np.sort(np.random.default_rng(seed).choice(count, samples, replace=False))
    return [array[chosen] for array in arrays]


def _check(array: np.ndarray, tensor: Any) -> None:
    where = f"calibration of input {tensor.name!r}"
    expected = ", ".join(map(str, ("samples", *tensor.shape[1:])))
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{where} has dtype {array.dtype}; numbers are needed")
    if array.ndim == 0 or array.shape[1:] != tuple(tensor.shape[1:]):
        raise ValueError(f"{where} has shape {array.shape}; expected ({expected})")
    if not len(array):
        raise ValueError(f"{where} is empty")


def _floats(array: np.ndarray, tensor: Any) -> np.ndarray:
    values = np.ascontiguousarray(array, dtype=np.float32)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"calibration of input {tensor.name!r} holds NaN or infinity")
    return values


def load_npz(
    path: str | Path, *, input_key: str | None = None, label_key: str | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Inputs and labels (None where the file has none) of an `.npz` file.

    Args:
        input_key: name of the inputs; by default the first array that is not the labels.
        label_key: name of the labels; by default "y".

    Raises:
        ValueError: no such file or array, or not an `.npz` file of plain arrays; names the file.
    """
    path = Path(path)
    with _open_npz(path) as stored:
        names = stored.files
        labels = label_key or "y"
        inputs = input_key or next((name for name in names if name != labels), None)
        missing = [name for name in (inputs, label_key) if name and name not in names]
        if inputs is None or missing:
            raise ValueError(f"{path}: no array {missing or 'of inputs'}; it holds {names}")
        has_labels = labels in names and labels != inputs
        return _read(stored, inputs, path), _read(stored, labels, path) if has_labels else None


def _open_npz(path: Path) -> np.lib.npyio.NpzFile:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        stored = np.load(path)
    except _UNREADABLE as error:
        raise ValueError(f"{path}: not an .npz file: {error}") from error
    if not isinstance(stored, np.lib.npyio.NpzFile):
        raise ValueError(f"{path}: one bare array, not an .npz file; write it with numpy.savez")
    return stored


def _read(stored: np.lib.npyio.NpzFile, name: str, path: Path) -> np.ndarray:
    try:
        return stored[name]
    except _UNREADABLE as error:
        raise ValueError(f"{path}: array {name!r} cannot be read: {error}") from error
