"""One point of a frontier."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class FrontierPoint:
    """One undominated choice.

    Attributes:
        widths: layer name -> weight bits.
        loss: predicted rise of the loss.
        costs: cost name -> cost, see `Budget`.
        file_bytes: predicted size of the exported file.
        activation_widths: layer name -> bits of its output, where those were chosen too.
    """

    widths: dict[str, int]
    loss: float
    costs: dict[str, float]
    file_bytes: int
    activation_widths: dict[str, int] = dataclasses.field(default_factory=dict)


def spread(count: int, most: int | None) -> Sequence[int]:
    """Indices of at most so many of `count` points, in even steps, both ends among them."""
    if most is None or count <= most:
        return range(count)
    return sorted({round(index) for index in np.linspace(0, count - 1, most)})
