"""Bars for what takes longer than a user likes to wait in silence, and timings."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

Item = TypeVar("Item")
#: Seconds that pass before a bar appears.
PATIENCE = 1.0
#: Seconds between two looks of a bar.
_INTERVAL = 0.2


class Bar:
    """One line that fills; where another is shown already, nothing.

    What is no terminal gets its last look only.
    """

    _shown: weakref.ref[Bar] | None = None

    def __init__(self, title: str, total: int) -> None:
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            # What a narrow terminal has no room for.
            TextColumn(
                "{task.fields[values]}",
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            expand=True,
            console=Console(),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._live.add_task(title, total=total, values="")
        self._looked = 0.0
        other = Bar._shown and Bar._shown()
        self._is_shown = other is None
        if self._is_shown:
            Bar._shown = weakref.ref(self)
            self._live.start()
        # A terminal's cursor comes back, however the work ends; once, for it prints a line end.
        self._end = weakref.finalize(self, self._live.stop) if self._is_shown else None

    def update(self, done: int, words: str = "") -> None:
        """Shows how much is done, and some words beside it."""
        self._live.update(self._task, completed=done, values=words)
        now = time.perf_counter()
        if self._is_shown and now - self._looked > _INTERVAL:
            self._looked = now
            self._live.refresh()

    def stop(self) -> None:
        if self._end is not None and self._end.alive:
            Bar._shown = None
            self._end()


def progress(items: Sequence[Item], title: str) -> Iterator[Item]:
    """Yields `items`; once they take longer than `PATIENCE`, shows a bar."""
    bar: Bar | None = None
    begin = time.perf_counter()
    try:
        for index, item in enumerate(items):
            yield item
            if bar is None and time.perf_counter() - begin > PATIENCE:
                bar = Bar(title, len(items))
            if bar is not None:
                bar.update(index + 1)
    finally:
        if bar is not None:
            bar.stop()


class StepProgress(keras.callbacks.Callback):
    """One bar over all steps of a `fit`, however many epochs it has."""

    def __init__(self, steps: int, title: str) -> None:
        super().__init__()
        self._steps, self._title = steps, title
        self._bar: Bar | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._bar = Bar(self._title, self._steps)
        self._done = int(self.model.optimizer.iterations.numpy())
        self._bar.update(self._done, "compiling the first step")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._done += 1
        if self._bar is not None:
            values = (f"{name} {float(value):.4g}" for name, value in (logs or {}).items())
            self._bar.update(self._done, "  ".join(values))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


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
