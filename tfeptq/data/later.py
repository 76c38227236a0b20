"""Arrays that are read when they are needed: what can be refused without them comes before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Later:
    """Stands for an array until somebody looks at its values.

    Args:
        read: gives the array, and may raise ValueError; called every time.
    """

    def __init__(self, read: Callable[[], np.ndarray]) -> None:
        self.read = read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype)
