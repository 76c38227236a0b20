"""Data in batches, for tests of the forms in which they are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


class Batches(keras.utils.PyDataset):
    """The batches of a list, whatever they are."""

    def __init__(self, batches: Sequence[Any]) -> None:
        super().__init__()
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        return self._batches[index]
