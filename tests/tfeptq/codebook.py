"""A weight grid of the tests' own, unlike uniform integers in everything that a grid may be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfeptq.quantized.weight_grid import StoredWeights

#: Largest integer of an entry: they are stored as int8.
REACH = 127


@dataclasses.dataclass(frozen=True)
class Codebook:
    """What learned grids will be like: a few integers, others in every channel, with gaps.

    Args:
        bits: of the place of an entry.
        entries: ascending integers; its last axis counts them, the others broadcast against
            the weights. Arrays, or tensors in a compiled step.
    """

    bits: int
    step: Any
    entries: Any
    per_channel: bool = True

    @classmethod
    def of_threshold(cls, threshold, *, bits, per_channel=True):
        """Entries like quantiles: dense around zero."""
        step = np.asarray(threshold) / REACH
        return cls(bits, step, spread(bits, np.shape(step)), per_channel)

    @classmethod
    def holding(cls, largest, *, bits, per_channel=True):
        return cls.of_threshold(largest, bits=bits, per_channel=per_channel)

    @classmethod
    def restored(cls, step, tables: Mapping[str, Any], *, bits, per_channel):
        return cls(bits, step, tables["entries"], per_channel)

    @staticmethod
    def code_bits(bits: int) -> int:
        return 8

    @staticmethod
    def table_shapes(scales, *, bits):
        return {"entries": (*scales, 2**bits - 1)}

    @property
    def tables(self):
        return {"entries": self.entries}

    @property
    def threshold(self):
        return self.step * REACH

    def adapted(self, weights, importance):
        """A few steps of Lloyd's algorithm in every row; zero stays an entry."""
        entries, scaled = np.array(self.entries), weights / self.step
        for _ in range(3):
            places = np.abs(scaled[..., None] - entries).argmin(axis=-1)
            for row, (book,) in enumerate(entries):
                for place in np.flatnonzero(book):
                    mine = places[row] == place
                    if importance[row][mine].sum() > 0.0:
                        book[place] = np.average(scaled[row][mine], weights=importance[row][mine])
            entries = np.sort(np.clip(np.round(entries), -REACH, REACH), axis=-1)
        return dataclasses.replace(self, entries=entries)

    @property
    def levels(self):
        return self.entries.shape[-1]

    def bounds(self):
        return self.entries[..., 0], self.entries[..., -1]

    def _entry(self, places):
        if tf.is_tensor(places):
            chosen = tf.cast(tf.clip_by_value(places, 0, self.levels - 1), tf.int32)
            entries = tf.convert_to_tensor(self.entries)
            shape = tf.concat([tf.shape(chosen), tf.shape(entries)[-1:]], axis=0)
            entries = tf.broadcast_to(entries, shape)
            return tf.gather(entries, chosen, axis=-1, batch_dims=len(chosen.shape))
        chosen = np.clip(places, 0, self.levels - 1).astype(int)
        entries = np.broadcast_to(self.entries, (*chosen.shape, self.levels))
        return np.take_along_axis(entries, chosen[..., None], axis=-1)[..., 0].astype(float)

    def _gap(self, place):
        gap = self._entry(place + 1) - self._entry(place)
        return np.where(gap > 0, gap, 1.0)

    def nearest(self, weights, *, within=None):
        distance = np.abs((weights / self.step)[..., None] - self.entries)
        return np.clip(self._entry(distance.argmin(axis=-1)), *(within or self.bounds()))

    def place(self, weights):
        scaled = weights / self.step
        place = np.sum(scaled[..., None] >= self.entries, axis=-1) - 1.0
        return place, (scaled - self._entry(place)) / self._gap(place) % 1.0

    def neighbours(self, weights):
        place, _ = self.place(weights)
        return self.between(place, 0.0), self.between(place, 1.0)

    def place_above(self, integers):
        return np.sum(np.asarray(integers)[..., None] >= self.entries, axis=-1) - 1.0

    def place_beside(self, integers, weights):
        scaled = weights / self.step
        place = np.where(scaled < integers, self.place_above(integers) - 1, 0)
        place = np.where(scaled < integers, place, self.place_above(integers))
        share = (scaled - self._entry(place)) / self._gap(place)
        return place, np.clip(share, 0.0, 1.0), self.place_above(integers) - place

    def between(self, place, share):
        place = tf.convert_to_tensor(place) if hasattr(place, "assign") else place
        return self._entry(place) + share * (self._entry(place + 1) - self._entry(place))

    def values(self, integers):
        return integers * self.step

    def error(self, weights):
        return self.values(self.nearest(weights)) - weights

    def stored(self, integers):
        """The places are not stored yet: the file has the entries themselves."""
        scale = np.asarray(self.step, np.float32).reshape(-1)
        return StoredWeights(integers.astype(np.int8), scale, self.code_bits(self.bits))

    def arranged(self, arrange: Callable[[Any], Any]):
        by_entry = [arrange(entry) for entry in np.moveaxis(self.entries, -1, 0)]
        return dataclasses.replace(
            self, step=arrange(self.step), entries=np.stack(by_entry, axis=-1)
        )


def spread(bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Entries (*shape, 2^bits - 1): zero, and as many on either side, denser around it."""
    count = 2 ** (bits - 1) - 1
    places = np.arange(1, count + 1)
    # Of many entries some would be equal: they are at least one apart.
    side = np.maximum(np.round(REACH * (places / count) ** 1.5), places)
    side = np.maximum.accumulate(side - places) + places
    entries = np.concatenate([-side[::-1], [0.0], side])
    return np.broadcast_to(entries, (*shape, len(entries))).copy()
