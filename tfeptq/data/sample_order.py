"""An order of samples that does not depend on how they were given.

Every sample gets a hash of what it holds, keyed by the seed, and samples are sorted by it. The
order is random by the seed, so that each prefix of it is a random choice among all samples, and
any permutation of the same samples comes out the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

_HASH_BYTES = 16


class Rank(NamedTuple):
    """Place of a sample in the order; no two samples have the same.

    Attributes:
        order: hash of the other two, by which samples are sorted.
        content: hash of the sample.
        occurrence: how many equal samples came before. Equal ones do not stay together: a choice
            of some samples has each as often as chance wants, not all copies of a few.
    """

    order: bytes
    content: bytes
    occurrence: int


class Ranking:
    """Ranks of samples in the order in which they are read.

    Attributes:
        count: samples so far.
    """

    def __init__(self, seed: int) -> None:
        self.count = 0
        self._key = str(seed).encode()
        #: Content -> where it came first; most content comes once.
        self._first: dict[bytes, int] = {}
        self._later: dict[bytes, list[int]] = {}

    def add(self, arrays: Sequence[np.ndarray]) -> list[Rank]:
        """Ranks of the next samples.

        Args:
            arrays: one a model input, float32 (n, ...).
        """
        return [self._rank(rows) for rows in zip(*arrays, strict=True)]

    def labels(self, ranks: Sequence[Rank], labels: np.ndarray) -> np.ndarray:
        """Labels of samples.

        Equal samples with unequal labels get these in the order of their bytes.

        Args:
            labels: of all samples that were added, in that order, (count, ...).
        """
        return labels[[self._position(rank, labels) for rank in ranks]]

    def _rank(self, rows: Sequence[np.ndarray]) -> Rank:
        content = self._hash(*(row.tobytes() for row in rows))
        occurrence, position = 0, self.count
        self.count += 1
        if self._first.setdefault(content, position) != position:
            later = self._later.setdefault(content, [])
            later.append(position)
            occurrence = len(later)
        return Rank(self._hash(content, str(occurrence).encode()), content, occurrence)

    def _hash(self, *parts: bytes) -> bytes:
        digest = hashlib.blake2b(key=self._key, digest_size=_HASH_BYTES)
        for part in parts:
            digest.update(part)
        return digest.digest()

    def _position(self, rank: Rank, labels: np.ndarray) -> int:
        equal = [self._first[rank.content], *self._later.get(rank.content, [])]
        if len(equal) > 1:
            equal.sort(key=lambda position: labels[position].tobytes())
        return equal[rank.occurrence]


class FirstSamples:
    """The samples of a stream that come first in the order, while it is read.

    Memory holds little more of them than are wanted.
    """

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._kept: dict[Rank, list[np.ndarray]] = {}
        #: What a sample must be below to be among the first, by either rule; None: nothing yet.
        self._bounds: list[Any] = [None] * len(_RULES)
        self._room = self._with_reserve(wanted)

    def add(self, ranks: Sequence[Rank], arrays: Sequence[np.ndarray]) -> None:
        """The next samples.

        Args:
            ranks: from a `Ranking`.
            arrays: one a model input, float32 (n, ...).
        """
        for index, rank in enumerate(ranks):
            if self._is_wanted(rank):
                self._kept[rank] = [array[index].copy() for array in arrays]
        if len(self._kept) > self._room:
            self._forget()

    def taken(
        self, count: int, *, avoids_repetitions: bool = False
    ) -> tuple[list[Rank], list[np.ndarray]]:
        """Ranks and values of the first `count` samples in their order, then of all others wanted.

        Args:
            avoids_repetitions: equal samples are taken only where there are too few others.
        """
        first = self._first(_RULES[avoids_repetitions])
        ranks = [*sorted(first[:count]), *first[count:]]
        columns = zip(*(self._kept[rank] for rank in ranks), strict=True)
        return ranks, [np.stack(column) for column in columns]

    def _is_wanted(self, rank: Rank) -> bool:
        return any(
            bound is None or rule(rank) < bound
            for rule, bound in zip(_RULES, self._bounds, strict=True)
        )

    def _first(self, rule: Callable[[Rank], Any]) -> list[Rank]:
        return sorted(self._kept, key=rule)[: self._wanted]

    def _forget(self) -> None:
        """Drops what is not among the first by either rule."""
        firsts = [self._first(rule) for rule in _RULES]
        self._bounds = [rule(first[-1]) for rule, first in zip(_RULES, firsts, strict=True)]
        self._kept = {rank: self._kept[rank] for first in firsts for rank in first}
        self._room = self._with_reserve(len(self._kept))

    def _with_reserve(self, count: int) -> int:
        """Forgetting sorts everything, so it must not happen for each new sample."""
        return count + self._wanted // 4


def _by_order(rank: Rank) -> Any:
    return rank


def _repetitions_last(rank: Rank) -> Any:
    return rank.occurrence > 0, rank


#: Which samples come first; whether a stream ends is known at its end.
_RULES = (_by_order, _repetitions_last)
