"""Work that a callback does after `on_train_end` of all others, wherever it stands among them.

Callbacks restore or average weights in their own `on_train_end` (`EarlyStopping`): whoever takes
the model that `fit` returns must come last. Keras tells a callback its model, but not the list that
it stands in. That list is found where it is running, among the callers, and what is appended to it
runs last. All names are public, but that `CallbackList` calls its callbacks itself and goes through
them in order is Keras's way of doing it: tests of every place in the list hold it to that.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras

Logs = dict[str, Any] | None


class _Last(keras.callbacks.Callback):
    """Stands at the end of a list and does what another callback wants done there."""

    def __init__(self, owner: keras.callbacks.Callback, finish: Callable[[Logs], None]) -> None:
        super().__init__()
        self.owner, self._finish = owner, finish

    def on_train_end(self, logs: Logs = None) -> None:
        self._finish(logs)


def finish_last(callback: keras.callbacks.Callback, finish: Callable[[Logs], None]) -> bool:
    """Has `finish` called when a training has ended, after all callbacks, with the logs.

    Call it in `on_train_begin`.

    Returns:
        False where no `keras.callbacks.CallbackList` runs the callback, as in a loop of the user's
        own that calls it by hand: then nobody comes after it.
    """
    running = next(_running_lists(callback), None)
    if running is None:
        return False
    # A list that is used again still holds the one of the fit before, and maybe others behind it.
    for other in list(running.callbacks):
        if isinstance(other, _Last) and other.owner is callback:
            running.callbacks.remove(other)
    running.callbacks.append(_Last(callback, finish))
    return True


def standing_with(callback: keras.callbacks.Callback) -> list[keras.callbacks.Callback]:
    """All callbacks of the list that runs this one, in their order; none where no list does."""
    running = next(_running_lists(callback), None)
    return [] if running is None else list(running.callbacks)


def _running_lists(callback: keras.callbacks.Callback) -> Iterator[keras.callbacks.CallbackList]:
    """Lists with the callback among the callers, the innermost first."""
    frame = inspect.currentframe()
    while frame is not None:
        for value in list(frame.f_locals.values()):
            if isinstance(value, keras.callbacks.CallbackList) and any(
                each is callback for each in value.callbacks
            ):
                yield value
        frame = frame.f_back
