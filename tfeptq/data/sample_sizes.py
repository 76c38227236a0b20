"""Sizes of calibration samples, for models that leave sizes open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfeptq.data.later import Later

Sizes = tuple[int, ...]


def sizes_of(
    calibration: Any, inputs: Sequence[Sequence[int | None]]
) -> Sizes | list[Sizes] | dict[str, Sizes] | None:
    """Sizes of one sample of each input, without reading more of the samples than one batch.

    Args:
        calibration: as `tfeptq.data.samples.take` has it.
        inputs: what is known of the sizes; None where they are open.

    Returns:
        Of one input its sizes, of more one entry an input, by name where the samples have names.
        None where the samples do not say (a generator would lose a batch), or do not fit.
    """
    samples = first_batch(calibration, len(inputs))
    if samples is None:
        return None
    if isinstance(samples, Mapping):
        if len(inputs) > 1 and len(samples) == len(inputs):
            return {str(name): _of(value) for name, value in samples.items()}
        samples = list(samples.values()) if len(samples) == 1 else None
    is_many = isinstance(samples, (list, tuple)) and len(samples) == len(inputs)
    sizes = [_of(value) for value in (samples if is_many else [samples])]
    if not _fit(sizes, inputs):
        return None
    return sizes if len(sizes) > 1 else sizes[0]


def first_batch(calibration: Any, count: int) -> Any:
    """All samples where they are arrays, otherwise their first batch without labels.

    None where that would lose a batch, as of a generator.

    Args:
        count: of the model's inputs.
    """
    if isinstance(calibration, Later):
        return calibration.read()
    if isinstance(calibration, (list, tuple, Mapping)) or hasattr(calibration, "__array__"):
        return calibration
    if hasattr(calibration, "element_spec"):
        batch = next(iter(calibration), None)
    elif hasattr(calibration, "num_batches"):
        batch = calibration[0]
    else:
        return None
    is_flat = isinstance(batch, tuple) and (len(batch) != count or count == 1)
    return batch[0] if is_flat and batch else batch


def _of(values: Any) -> Sizes:
    return tuple(int(size) for size in np.shape(values)[1:])


def _fit(sizes: Sequence[Sizes], inputs: Sequence[Sequence[int | None]]) -> bool:
    return len(sizes) == len(inputs) and all(
        len(found) == len(known) and all(b in (None, a) for a, b in zip(found, known, strict=True))
        for found, known in zip(sizes, inputs, strict=True)
    )
