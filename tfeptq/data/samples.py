"""Calibration data in every form that Keras users have it, checked before any work."""

from __future__ import annotations

import dataclasses
import heapq
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfeptq.data.given_arrays import as_array, check_shape
from tfeptq.data.sample_order import FirstSamples, Rank, Ranking
from tfeptq.settings import shown
from tflite_export.graph.limits import HIGHEST_SCALE

if TYPE_CHECKING:
    import keras

    from tfeptq.config import QuantizationConfig

#: What NumPy raises on damaged files, and on pickled objects, which are never loaded.
_UNREADABLE = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error)
#: What files of several arrays, and of one, begin with.
_ZIP, _ARRAY = b"PK", b"\x93NUMPY"
#: Of a stream without a known end, so many times the samples that are asked for are read.
ENDLESS_FACTOR = 16
#: Samples that are kept for `tfeptq.report.quality` where more are given than asked for.
HELD_BACK = 32
#: Beyond it an 8-bit tensor has no scale that kernels compute with.
_LARGEST = 127 * HIGHEST_SCALE
#: Values of an array that are converted at once.
_SLICE = 2**22


@dataclasses.dataclass(frozen=True)
class Taken:
    """Calibration samples as every stage takes them.

    Attributes:
        arrays: one a model input, float32 (n, ...), in the order of `tfeptq.data.sample_order`: a
        stage that needs fewer takes the first ones, which are random by the seed. labels: of the
        samples, (n, ...), where any were given. notes: what the user should know about the choice.
        held_back: a few samples that nothing else uses, where more were given than asked for.
    """

    arrays: list[np.ndarray]
    labels: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    held_back: list[np.ndarray] | None = None


def configured_samples(
    calibration: Any, inputs: Sequence[Any], config: QuantizationConfig, labels: Any = None
) -> Taken:
    """`take` with the settings of a configuration."""
    return take(
        calibration,
        inputs,
        samples=config.samples,
        seed=config.seed,
        augmentation=config.augmentation,
        labels=labels,
    )


def take_samples(
    calibration: Any,
    inputs: Sequence[Any],
    *,
    samples: int,
    seed: int,
    augmentation: keras.Layer | None = None,
) -> list[np.ndarray]:
    """The arrays of `take`."""
    return take(calibration, inputs, samples=samples, seed=seed, augmentation=augmentation).arrays


def take(
    calibration: Any,
    inputs: Sequence[Any],
    *,
    samples: int,
    seed: int,
    augmentation: keras.Layer | None = None,
    labels: Any = None,
    may_be_fewer: bool = False,
) -> Taken:
    """At most `samples` inputs, chosen by the seed among all, whatever their order and form.

    Args:
        calibration: one array; a tuple, list or dict of arrays for several inputs; or batches from
            a `keras.utils.PyDataset`, a `tf.data.Dataset` or a generator. Labels of batches
            (inputs, labels) are ignored. What has a length is read to its end. Other streams are
            read until they end, or until `ENDLESS_FACTOR` times `samples` were seen; of those that
            go on, repetitions are taken only where there is too little else.
        inputs: the model's input tensors.
        seed: of the choice, of the order, and of the copies.
        augmentation: fills them up to `samples`, see `tfeptq.data.augmentation`.
        labels: one array in the order of all samples of `calibration`. Copies have the labels of
            their origins.
        may_be_fewer: nobody needs to be told of fewer samples than were asked for.

    Raises:
        ValueError: nothing there, wrong shape or dtype, NaN or infinity, which names the input; not
            one label a sample, or no numbers.
    """
    labels = None if labels is None else label_array(labels)
    ranking = Ranking(seed)
    notes: tuple[str, ...] = ()
    if _is_batches(calibration):
        ranks, arrays, is_endless = _from_stream(calibration, inputs, ranking, samples)
        if is_endless:
            notes = (_endless_note(ranking.count, min(len(ranks), samples)),)
        _check_labels(labels, ranking.count, may_be_more=is_endless)
    else:
        given = _checked(calibration, inputs)
        _check_labels(labels, len(given[0]))
        ranks, arrays = _from_arrays(given, inputs, ranking, samples)
    held_back = [array[samples:] for array in arrays] if len(ranks) > samples else None
    ranks, arrays = ranks[:samples], [array[:samples] for array in arrays]
    found = None if labels is None else ranking.labels(ranks, labels)
    taken = Taken(arrays, found, notes, held_back)
    if augmentation is not None:
        return _filled(taken, inputs, augmentation, samples=samples, seed=seed)
    if len(ranks) < samples and not may_be_fewer:
        warnings.warn(
            f"calibration holds {len(ranks)} samples, {samples} were asked for: {len(ranks)} are "
            "used",
            stacklevel=4,
        )
    return taken


def _filled(
    taken: Taken, inputs: Sequence[Any], augmentation: keras.Layer, *, samples: int, seed: int
) -> Taken:
    count = len(taken.arrays[0])
    if count == samples:
        warnings.warn(
            f"augmentation is not used: calibration holds the {samples} samples that were asked "
            "for; ask for several times as many",
            stacklevel=5,
        )
        return taken
    from tfeptq.data.augmentation import with_copies

    copies = with_copies(taken.arrays, augmentation, count=samples, seed=seed)
    ranking = Ranking(seed)
    ranks, arrays = _from_arrays(copies, inputs, ranking, samples)
    labels = taken.labels
    if labels is not None:
        labels = ranking.labels(ranks, labels[np.arange(samples) % count])
    return Taken(arrays, labels, taken.notes, taken.held_back)


def label_array(labels: Any) -> np.ndarray:
    """Labels as one array (n, ...). Raises ValueError for what is no array of numbers."""
    array = as_array(labels, "labels: what was given")
    if array.ndim == 0:
        raise ValueError(f"labels={shown(labels)}: one array is needed, one label a sample")
    if not np.all(np.isfinite(array)):
        raise ValueError("labels hold NaN or infinity")
    return array


def _check_labels(labels: np.ndarray | None, count: int, *, may_be_more: bool = False) -> None:
    if labels is None or len(labels) == count or (may_be_more and len(labels) > count):
        return
    raise ValueError(f"calibration holds {count} samples and {len(labels)} labels")


def _endless_note(seen: int, used: int) -> str:
    return (
        f"calibration has no length: {used} samples were chosen among the first {seen} of it; pass "
        "a tf.data.Dataset or PyDataset with a length to have all of them considered"
    )


def _is_batches(calibration: Any) -> bool:
    """Whether it is read batch by batch; otherwise it holds all samples as arrays."""
    if _is_py_dataset(calibration):
        return True
    if isinstance(calibration, (list, tuple, Mapping)):
        return False
    if isinstance(calibration, (str, bytes, os.PathLike)):
        raise ValueError(
            f"calibration is the path {os.fspath(calibration)!r}; load its arrays and pass those, "
            "for example numpy.load(path)['x']"
        )
    if hasattr(calibration, "__array__"):
        return False
    if isinstance(calibration, Iterable) and not isinstance(calibration, Set):
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


def _has_length(calibration: Any) -> bool:
    """Generators have none, nor have `tf.data.Dataset`s of unknown or infinite cardinality."""
    try:
        return _is_py_dataset(calibration) or len(calibration) >= 0
    except (TypeError, NotImplementedError):
        return False


def _from_arrays(
    arrays: Sequence[np.ndarray], inputs: Sequence[Any], ranking: Ranking, samples: int
) -> tuple[list[Rank], list[np.ndarray]]:
    """Ranks and values of the samples that come first, and of some more to be held back.

    Memory-mapped arrays are read in slices.
    """
    # It waits for Keras, and the command line reads files before that.
    from tfeptq.progress import progress

    step = max(1, _SLICE // max(1, *(array[0].size for array in arrays)))
    begins = progress(range(0, len(arrays[0]), step), "samples")
    parts = ([array[begin : begin + step] for array in arrays] for begin in begins)
    ranks = (rank for part in parts for rank in ranking.add(_all_floats(part, inputs)))
    first = heapq.nsmallest(samples + HELD_BACK, ((rank, i) for i, rank in enumerate(ranks)))
    chosen = [index for _, index in first]
    return [rank for rank, _ in first], _all_floats([array[chosen] for array in arrays], inputs)


def _from_stream(
    calibration: Any, inputs: Sequence[Any], ranking: Ranking, samples: int
) -> tuple[list[Rank], list[np.ndarray], bool]:
    """The same of batches, and of some more samples; whether they go on without a known end."""
    limit = None if _has_length(calibration) else ENDLESS_FACTOR * samples
    first = FirstSamples(samples + HELD_BACK)
    for batch in _batches(calibration):
        arrays = _checked(_without_labels(batch, len(inputs)), inputs, is_batch=True)
        if not len(arrays[0]):
            continue  # As a filter leaves them.
        floats = _all_floats(arrays, inputs)
        first.add(ranking.add(floats), floats)
        if limit is not None and ranking.count >= limit:
            return *first.taken(samples, avoids_repetitions=True), True
    if not ranking.count:
        raise ValueError("calibration yields no batch")
    return *first.taken(samples), False


def _without_labels(batch: Any, inputs: int) -> Any:
    """Inputs of a batch that may be (inputs, labels) or (inputs, labels, weights).

    A flat pair is taken as two inputs only where the model has two.
    """
    if not isinstance(batch, tuple):
        return batch
    is_nested = isinstance(batch[0], (tuple, list, Mapping)) if batch else False
    return batch if len(batch) == inputs and not is_nested else batch[0]


def _checked(data: Any, inputs: Sequence[Any], *, is_batch: bool = False) -> list[np.ndarray]:
    """One array (n, ...) a model input, of equal n; not converted yet, it may be large.

    Args:
        is_batch: it comes from what should yield batches.
    """
    arrays = _split(data, [tensor.name for tensor in inputs])
    for array, tensor in zip(arrays, inputs, strict=True):
        check_shape(array, tensor.shape[1:], _where(tensor.name), is_batch=is_batch)
    counts = sorted({len(array) for array in arrays})
    if len(counts) > 1:
        raise ValueError(f"calibration arrays hold unequal numbers of samples: {counts}")
    return arrays


def _split(data: Any, names: list[str]) -> list[np.ndarray]:
    """One array a model input."""
    if isinstance(data, Mapping):
        missing = [name for name in names if name not in data]
        if missing:
            way = f"pass {{{names[0]!r}: array}}, or the array" if len(names) == 1 else "name all"
            raise ValueError(
                f"calibration lacks the inputs {missing}; it holds {sorted(map(str, data))}: {way}"
            )
        return [as_array(data[name], _where(name)) for name in names]
    if isinstance(data, (list, tuple)) and (len(names) > 1 or len(data) == 1):
        if len(data) != len(names):
            raise ValueError(f"calibration holds {len(data)} arrays, the model takes {names}")
        return [as_array(values, _where(name)) for values, name in zip(data, names, strict=True)]
    if len(names) > 1:
        raise ValueError(f"calibration is one array, the model takes the inputs {names}")
    if isinstance(data, (list, tuple)) and len({getattr(d, "shape", None) for d in data}) > 1:
        raise ValueError(
            f"calibration is a {type(data).__name__} of {len(data)} unequal parts, the model takes "
            f"one input, {names[0]!r}; pass its samples as one array, without labels"
        )
    return [as_array(data, _where(names[0]))]


def _where(name: str) -> str:
    return f"calibration of input {name!r}"


def _all_floats(arrays: Sequence[np.ndarray], inputs: Sequence[Any]) -> list[np.ndarray]:
    return [_floats(array, tensor) for array, tensor in zip(arrays, inputs, strict=True)]


def _floats(array: np.ndarray, tensor: Any) -> np.ndarray:
    # What exceeds float32 becomes infinity, and is refused as such.
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, dtype=np.float32)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{_where(tensor.name)} holds NaN or infinity (float32 ends at 3.4e38)")
    largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
    if largest > _LARGEST:
        raise ValueError(
            f"{_where(tensor.name)} reaches {largest:.3g}; kernels compute with values up to "
            f"{_LARGEST:.3g}: leave such samples out, or give another unit"
        )
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
    with path.open("rb") as file:
        beginning = file.read(len(_ARRAY))
    if not beginning.startswith((_ZIP, _ARRAY)):
        # NumPy takes anything else for a pickle, and recommends to load that.
        what = "something else" if beginning else "empty"
        raise ValueError(
            f"{path}: not an .npz file but {what}; write one with numpy.savez('x.npz', x=inputs, "
            "y=labels)"
        )
    try:
        stored = np.load(path)
    except _UNREADABLE as error:
        raise ValueError(f"{path}: not an .npz file, or a damaged one: {error}") from error
    if not isinstance(stored, np.lib.npyio.NpzFile):
        raise ValueError(f"{path}: one bare array, not an .npz file; write it with numpy.savez")
    if stored.zip is not None and any(not n.endswith(".npy") for n in stored.zip.namelist()):
        stored.close()
        raise ValueError(
            f"{path}: an archive of something else, as .keras files are, not an .npz file; write "
            "one with numpy.savez('x.npz', x=inputs, y=labels)"
        )
    return stored


def _read(stored: np.lib.npyio.NpzFile, name: str, path: Path) -> np.ndarray:
    try:
        return stored[name]
    except _UNREADABLE as error:
        if "allow_pickle" in str(error):
            raise ValueError(
                f"{path}: array {name!r} holds Python objects, which are never loaded; numbers are "
                "needed, as array.astype('float32') makes them"
            ) from error
        raise ValueError(f"{path}: array {name!r} cannot be read: {error}") from error
