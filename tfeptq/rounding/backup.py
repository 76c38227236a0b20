"""The state of a training on disk, so that one that was stopped goes on bit for bit.

Keras's `BackupAndRestore` overwrites its file in place: a process that dies meanwhile leaves none
that can be read. Here two generations take turns, each written aside and sealed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfeptq.checkpoint import sealed
from tfeptq.checkpoint.steps import keep
from tfeptq.rounding.training_record import TrainingRecord

_STEP, _RECORD = "step", "record"


class Generations:
    """The last two states that were kept at a path.

    Args:
        path: from which both files have their names.
    """

    def __init__(self, path: Path) -> None:
        self._paths = [path.with_suffix(f".{slot}{path.suffix}") for slot in range(2)]
        self._newest = 1

    def latest(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """Step and arrays of the newest state that is whole; None where there is none."""
        states = dict(enumerate(map(sealed.read, self._paths)))
        steps = {slot: int(arrays[_STEP]) for slot, arrays in states.items() if arrays is not None}
        if not steps:
            return None
        self._newest = max(steps, key=steps.__getitem__)
        arrays = states[self._newest] or {}
        return int(arrays.pop(_STEP)), arrays

    def keep(self, step: int, arrays: Mapping[str, np.ndarray]) -> bool:
        """Takes the place of the older state; False where the disk has no room for it."""
        oldest = 1 - self._newest
        if not keep(self._paths[oldest], {_STEP: np.array(step), **arrays}):
            return False
        self._newest = oldest
        return True

    def keep_only_latest(self) -> None:
        self._paths[1 - self._newest].unlink(missing_ok=True)

    def forget(self) -> None:
        for path in self._paths:
            path.unlink(missing_ok=True)


class TrainingBackup(keras.callbacks.Callback):
    """Keeps weights and optimizer after every epoch; belongs behind all other callbacks.

    What a run of `steps` leaves is kept as its result, unless a callback stopped it early or
    changed weights when it ended: then the same command may have other callbacks, and trains again.

    Args:
        path: from which the files have their names.
        steps: of the whole run.
        record: what is told of the training, kept with it.
    """

    def __init__(self, path: Path, steps: int, record: TrainingRecord) -> None:
        super().__init__()
        self._generations, self._steps, self._record = Generations(path), steps, record
        self._last: bytes | None = None

    def restore(self, model: keras.Model) -> int:
        """Gives a built and compiled model what was kept; returns how many steps that took."""
        found = self._generations.latest()
        if found is None:
            return 0
        step, arrays = found
        if (rows := arrays.pop(_RECORD, None)) is not None:
            self._record.restore(rows)
        for variable, array in zip(_variables(model), arrays.values(), strict=True):
            variable.assign(array)
        return step

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        arrays = _state(self.model)
        recorded = {_RECORD: self._record.array(), **arrays}
        is_kept = self._generations.keep(self._step, recorded)
        self._last = _checksum(arrays) if is_kept else None

    def close(self) -> None:
        """Call it when `fit` has returned."""
        is_complete = self._step >= self._steps
        if is_complete and self._last == _checksum(_state(self.model)):
            self._generations.keep_only_latest()
        elif not is_complete or self._last is not None:
            self._generations.forget()

    @property
    def _step(self) -> int:
        return int(self.model.optimizer.iterations.numpy())


def _variables(model: keras.Model) -> Iterable[keras.Variable]:
    return [*model.weights, *model.optimizer.variables]


def _state(model: keras.Model) -> dict[str, np.ndarray]:
    arrays = map(keras.ops.convert_to_numpy, _variables(model))
    return {str(index): array for index, array in enumerate(arrays)}


def _checksum(arrays: Mapping[str, np.ndarray]) -> bytes:
    return sealed.checksum(arrays).tobytes()
