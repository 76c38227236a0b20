"""Keras progress bars for what takes longer than a user likes to wait in silence, and timings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import keras

Item = TypeVar("Item")
#: Seconds that pass before a bar appears.
PATIENCE = 1.0


def progress(items: Sequence[Item], title: str) -> Iterator[Item]:
    """Yields `items`; once they take longer than `PATIENCE`, shows a `keras.utils.Progbar`."""
    bar: keras.utils.Progbar | None = None
    begin = time.perf_counter()
    for index, item in enumerate(items):
        yield item
        if bar is None and time.perf_counter() - begin > PATIENCE:
            print(title, flush=True)
            bar = keras.utils.Progbar(len(items))
        if bar is not None:
            bar.update(index + 1)


class StepProgress(keras.callbacks.Callback):
    """One bar over all steps of a `fit`, however many epochs it has."""

    def __init__(self, steps: int, title: str) -> None:
        super().__init__()
        self._steps, self._title = steps, title
        self._bar: keras.utils.Progbar | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        print(self._title, flush=True)
        self._bar = keras.utils.Progbar(self._steps, stateful_metrics=None, interval=0.5)
        self._done = int(self.model.optimizer.iterations.numpy())

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._done += 1
        values = [(name, float(value)) for name, value in (logs or {}).items()]
        if self._bar is not None:
            self._bar.update(self._done, values=values)


class Stopwatch:
    """Seconds of each named stage: `with watch("calibrate"): ...`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - begin
            self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed
