"""Weight grids: which values the weights of a kernel may have, and what rounding to them means.

Thresholds, GPTQ, training, sensitivities and freeze ask the grid of a kernel and round nothing
themselves. A grid is integers times the step of their channel; nothing outside of a grid's own
class may count on integers that follow each other by one, or that are the same in every channel.

A kind of grid is one class and a line in `tfeptq.config.WEIGHT_GRIDS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

#: Lowest and highest integer of every weight, broadcast against the weights.
Bounds = tuple[Any, Any]


@dataclasses.dataclass(frozen=True)
class StoredWeights:
    """A kernel as the integer graph holds it: `codes * scale` are its values.

    Attributes:
        codes: int8, in the kernel's shape.
        scale: float32, one an output channel or one in all.
        bits: that the codes need.
    """

    codes: np.ndarray
    scale: np.ndarray
    bits: int


class WeightGrid(Protocol):
    """What is asked of the grid of a kernel, and of its kind.

    Zero is one of its values. Weights come in the arrangement that the grid is in: everything that
    it keeps by channel (steps; the entries of a codebook) broadcasts against them, and follows them
    by `arranged`. Weights and what is returned are arrays, or tensors inside a compiled step.

    Two neighbouring values are told apart by a *place*, a float32 number that means something to
    the grid only, so that training can keep one a weight. Beyond the bounds both neighbours of a
    place are the last value.

    Thresholds try grids of one kind, one threshold a channel (`of_threshold`); the best then takes
    what else it learns from the weights (`adapted`). A layer keeps the step and the `tables` of its
    grid as variables, and makes it again of them (`restored`), of tensors inside a compiled step.
    """

    @classmethod
    def of_threshold(cls, threshold: Any, *, bits: int, per_channel: bool = True) -> WeightGrid:
        """The one that reaches from minus the threshold, positive, where weights are clipped."""

    @classmethod
    def holding(cls, largest: Any, *, bits: int, per_channel: bool = True) -> WeightGrid:
        """The finest that clips no weight up to the magnitude `largest`."""

    @classmethod
    def restored(
        cls, step: Any, tables: Mapping[str, Any], *, bits: int, per_channel: bool
    ) -> WeightGrid:
        """The grid with this step and these `tables`."""

    @staticmethod
    def code_bits(bits: int) -> int:
        """Width of the integers in the file, which the target must have a container for."""

    @staticmethod
    def table_shapes(scales: tuple[int, ...], *, bits: int) -> dict[str, tuple[int, ...]]:
        """Shapes of `tables` by name, of a kernel whose steps have the shape `scales`."""

    @property
    def tables(self) -> Mapping[str, Any]:
        """What it keeps beside the step, by name."""

    @property
    def threshold(self) -> Any:
        """Where weights are clipped below zero, positive."""

    def adapted(self, weights: np.ndarray, importance: np.ndarray) -> WeightGrid:
        """The grid with what else it learns of the weights; its step stays.

        Args:
            weights: in rows, (channels, weights of a channel) or (1, weights).
            importance: of each weight's squared error, in the same shape.
        """

    @property
    def bits(self) -> int:
        """Width of what is stored for a weight."""

    @property
    def step(self) -> Any:
        """Value of the integer 1, positive."""

    @property
    def levels(self) -> int:
        """How many values the weights under one step may have."""

    @property
    def per_channel(self) -> bool:
        """One step an output channel, otherwise one in all."""

    def bounds(self) -> Bounds:
        """Lowest and highest integer."""

    def nearest(self, weights: Any, *, within: Bounds | None = None) -> Any:
        """Integers of the values nearest to the weights.

        Args:
            within: integers of the grid that none may leave; None: its own bounds.
        """

    def neighbours(self, weights: Any) -> Bounds:
        """Integers of the values around the weights: not above, and not below them."""

    def place(self, weights: Any) -> tuple[Any, Any]:
        """Place of the neighbours, and the share in [0, 1) of the way from the lower one on."""

    def place_beside(self, integers: Any, weights: Any) -> tuple[Any, Any, Any]:
        """Place where the integer is the neighbour on the other side of its weight.

        Returns:
            Places, the shares in [0, 1] of the way at which the weights lie, and whether the
            integer is the upper neighbour, as 0 or 1.
        """

    def place_above(self, integers: Any) -> Any:
        """Place whose lower neighbour the integer is."""

    def between(self, place: Any, share: Any) -> Any:
        """A share of the way between the neighbours, in integers: 0 the lower, 1 the upper one."""

    def values(self, integers: Any) -> Any:
        """What integers stand for, those in between included."""

    def error(self, weights: Any) -> Any:
        """What nearest rounding adds to the weights."""

    def stored(self, integers: np.ndarray) -> StoredWeights:
        """What the file holds; the grid is in the arrangement of the kernel."""

    def arranged(self, arrange: Callable[[Any], Any]) -> WeightGrid:
        """The same grid for weights in another arrangement.

        Args:
            arrange: gives an array that broadcasts against the weights as they are one that does so
                against them as they will be.
        """
