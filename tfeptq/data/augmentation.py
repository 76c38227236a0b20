"""More calibration samples than there are: random copies, as training has them.

A thousand samples are soon learned by heart: rounding then fits them, and loses on others. Copies
that a float model would recognize as well take no labels, for its own outputs are the targets.
They are drawn once, before any work, so that every stage sees the same samples.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import keras
import numpy as np

from tfeptq.progress import progress

#: Copies that are made at once.
_BATCH = 64


def with_copies(
    samples: Sequence[np.ndarray], augmentation: keras.Layer, *, count: int, seed: int
) -> list[np.ndarray]:
    """The samples and random copies of them, `count` in all.

    Copies follow the samples and are made of one after the other: number i is sample i % n, or a
    copy of it.

    Args:
        samples: one array a model input, float32 (n, ...), n < count.
        augmentation: takes a batch of what the model takes, a list for several inputs, and returns
            the same shapes. It is left untouched: its copy draws from `seed`, or from its own.

    Raises:
        ValueError: it cannot take them, or other shapes, NaN or infinity come out.
    """
    total = len(samples[0])
    copies = [[array] for array in samples]
    layer = _seeded_copy(augmentation, seed)
    sources = np.arange(total, count) % total
    for begin in progress(range(0, len(sources), _BATCH), "augmentation"):
        batch = [array[sources[begin : begin + _BATCH]] for array in samples]
        for found, made in zip(copies, _augmented(layer, batch), strict=True):
            found.append(made)
    return [np.concatenate(parts) for parts in copies]


def _seeded_copy(augmentation: keras.Layer, seed: int) -> keras.Layer:
    """A fresh layer; where it was given no seed, it draws its own from Python's generator."""
    config = keras.saving.serialize_keras_object(augmentation)
    state = random.getstate()
    random.seed(seed)
    try:
        return keras.saving.deserialize_keras_object(config)
    finally:
        random.setstate(state)


def _augmented(layer: keras.Layer, batch: list[np.ndarray]) -> list[np.ndarray]:
    try:
        outputs = layer(batch[0] if len(batch) == 1 else batch, training=True)
    except Exception as error:
        # Layers fail with whatever they run into; Keras puts the reason behind the first line.
        reason = " ".join(str(error).split())
        raise ValueError(
            f"augmentation {layer.name!r} cannot take batches of shape "
            f"{[array.shape for array in batch]}: {reason}"
        ) from error
    results = [
        np.asarray(keras.ops.convert_to_numpy(output), np.float32)
        for output in keras.tree.flatten(outputs)
    ]
    received, expected = ([array.shape for array in arrays] for arrays in (results, batch))
    if received != expected:
        raise ValueError(f"augmentation {layer.name!r} makes {received} of {expected}")
    if not all(np.all(np.isfinite(array)) for array in results):
        raise ValueError(f"augmentation {layer.name!r} gives NaN or infinity")
    return results
