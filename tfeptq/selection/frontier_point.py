"""One point of a frontier, and what every kind of choice can say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from tfeptq.config import QuantizationConfig

#: Layer name -> (weight bits or None, bits of its output).
BitWidths = Mapping[str, tuple[int | None, int]]


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


class Points(Protocol):
    """Undominated choices, from the cheapest to the most accurate."""

    @property
    def costs(self) -> np.ndarray:
        """Float64 (points,), rising."""
        ...

    def __len__(self) -> int: ...

    def widths(self, point: int, /) -> Any: ...


class WidthChoice(Protocol):
    """A choice of widths that is still to be made; `Any` widths are its own, and opaque."""

    @property
    def source(self) -> str:
        """What predicted losses rest on, in words."""
        ...

    @property
    def cost_names(self) -> tuple[str, ...]:
        """Costs that a frontier can be drawn against."""
        ...

    def within(self, limits: Mapping[str, float]) -> Any:
        """Widths of least predicted loss under every limit. Raises ValueError where none are."""
        ...

    def pareto(self, cost: str) -> Points:
        """All undominated choices against one cost, their widths not spelled out."""
        ...

    def frontier(self, cost: str) -> list[FrontierPoint]:
        """The same, spelled out, the cheapest first."""
        ...

    def point(self, widths: Any) -> FrontierPoint:
        """Predicted loss and costs of widths."""
        ...

    def point_of(self, bit_widths: BitWidths) -> FrontierPoint:
        """The same of a quantized model's `bit_widths`."""
        ...

    def configured(self, config: QuantizationConfig, widths: Any) -> QuantizationConfig:
        """`config` with these widths instead of candidates and goals."""
        ...
