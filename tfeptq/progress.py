"""Bars for what takes longer than a user likes to wait in silence, and timings.

How much is said is decided once, by `shown`, for whatever runs inside of it.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

Item = TypeVar("Item")
#: Seconds that pass before a bar appears.
PATIENCE = 1.0
#: Seconds between two looks of a bar.
_INTERVAL = 0.2
#: As Keras has it: 0 says nothing, 1 shows bars, 2 prints a line a stage.
Verbosity = int | Literal["auto"]
_VERBOSE: ContextVar[int] = ContextVar("verbose", default=1)


def check_verbose(verbose: Any) -> None:
    """Raises ValueError for what Keras would not take."""
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(
            f"verbose must be 'auto', 0 (silent), 1 (bars) or 2 (a line a stage), received "
            f"{verbose!r}"
        )


@contextmanager
def shown(verbose: Verbosity) -> Iterator[None]:
    """Says so much of what happens inside; "auto" as whoever is around it does."""
    token = _VERBOSE.set(_VERBOSE.get() if verbose == "auto" else int(verbose))
    try:
        yield
    finally:
        _VERBOSE.reset(token)


def is_silent() -> bool:
    """Whether nothing is to be said."""
    return _VERBOSE.get() == 0


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
        self._is_shown = other is None and _VERBOSE.get() == 1
        if self._is_shown:
            Bar._shown = weakref.ref(self)
            self._live.start()
        # A terminal's cursor comes back, however the work ends; once, for it prints a line end.
        self._end = weakref.finalize(self, self._live.stop) if self._is_shown else None

    def restart(self, done: int) -> None:
        """Forgets how long it took until here: what is left is judged by what follows."""
        self._live.reset(self._task, completed=done)

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
    """One bar over all steps of a `fit`, however many epochs it has.

    Args:
        values: names of logs that it shows, and how.
    """

    def __init__(self, steps: int, title: str, values: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._steps, self._title = steps, title
        self._values = {"loss": "loss {:.4g}"} if values is None else values
        self._bar: Bar | None = None
        self._words = ""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._bar = Bar(self._title, self._steps)
        self._done = int(self.model.optimizer.iterations.numpy())
        self._is_first = True
        self._bar.update(self._done, "tracing the first step: up to a minute for deep models")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._done += 1
        if self._bar is None:
            return
        if self._is_first:
            self._is_first = False
            self._bar.restart(self._done)
        self._bar.update(self._done, self._words or self._stated(logs or {}))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._words = self._stated(logs or {})

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._bar is not None:
            self._bar.update(self._done, self._words)
            self._bar.stop()
            self._bar = None

    def _stated(self, logs: Mapping[str, Any]) -> str:
        return "  ".join(
            text.format(float(logs[name])) for name, text in self._values.items() if name in logs
        )


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
            if _VERBOSE.get() == 2:
                print(f"{stage}: {elapsed:.1f} s")
            self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed
