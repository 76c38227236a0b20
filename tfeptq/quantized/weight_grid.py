"""Weight grids: which values the weights of a kernel may have, and what rounding to them means.

Thresholds, GPTQ, training, sensitivities and freeze ask the grid of a kernel and round nothing
themselves. A grid is integers times the step of their channel; nothing outside of a grid's own
class may count on integers that follow each other by one, or that are the same in every channel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from keras import ops

from tfeptq.canonical.integer_types import weight_range

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
    """What is asked of the grid of a kernel.

    Zero is one of its values. Weights come in the arrangement that the grid is in: everything that
    it keeps by channel (steps; the entries of a codebook) broadcasts against them, and follows them
    by `arranged`. Weights and what is returned are arrays, or tensors inside a compiled step.

    Two neighbouring values are told apart by a *place*, a float32 number that means something to
    the grid only, so that training can keep one a weight. Beyond the bounds both neighbours of a
    place are the last value.
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


@dataclasses.dataclass(frozen=True)
class UniformGrid:
    """All integers of a width: step * n with n in [-2^(b-1), 2^(b-1) - 1], of 8 bits from -127 on.

    See `WeightGrid`. A place is the integer below, beyond the bounds too.

    Args:
        bits: 2 to 8.
        step: positive, an array or a tensor that broadcasts against the weights.
        per_channel: one step an output channel, otherwise one in all.
    """

    bits: int
    step: Any
    per_channel: bool = True

    @classmethod
    def of_threshold(cls, threshold: Any, *, bits: int, per_channel: bool = True) -> UniformGrid:
        """Of the threshold tau, where weights are clipped: the step is tau / 2^(b-1)."""
        return cls(bits, threshold / 2 ** (bits - 1), per_channel)

    @classmethod
    def holding(cls, largest: Any, *, bits: int, per_channel: bool = True) -> UniformGrid:
        """The finest that clips no weight up to the magnitude `largest`."""
        return cls(bits, largest / weight_range(bits)[1], per_channel)

    @property
    def threshold(self) -> Any:
        return self.step * 2 ** (self.bits - 1)

    @property
    def levels(self) -> int:
        return 2**self.bits

    def bounds(self) -> Bounds:
        return weight_range(self.bits)

    def nearest(self, weights: Any, *, within: Bounds | None = None) -> Any:
        return self._nearest(weights / self.step, within or self.bounds())

    def _nearest(self, scaled: Any, within: Bounds) -> Any:
        functions = _functions(scaled)
        return functions.clip(functions.round(scaled), *within)

    def neighbours(self, weights: Any) -> Bounds:
        below, _ = self.place(weights)
        return self.between(below, 0.0), self.between(below, 1.0)

    def place(self, weights: Any) -> tuple[Any, Any]:
        scaled = weights / self.step
        below = _functions(scaled).floor(scaled)
        return below, scaled - below

    def place_beside(self, integers: Any, weights: Any) -> tuple[Any, Any, Any]:
        functions, scaled = _functions(weights), weights / self.step
        below = functions.where(scaled < integers, integers - 1.0, integers)
        return below, functions.clip(scaled - below, 0.0, 1.0), integers - below

    def place_above(self, integers: Any) -> Any:
        return integers

    def between(self, place: Any, share: Any) -> Any:
        reached = place + share
        return _functions(reached).clip(reached, *self.bounds())

    def values(self, integers: Any) -> Any:
        return integers * self.step

    def error(self, weights: Any) -> Any:
        scaled = weights / self.step
        return (self._nearest(scaled, self.bounds()) - scaled) * self.step

    def stored(self, integers: np.ndarray) -> StoredWeights:
        scale = np.asarray(self.step, np.float32).reshape(-1)
        return StoredWeights(np.asarray(integers).astype(np.int8), scale, self.bits)

    def arranged(self, arrange: Callable[[Any], Any]) -> UniformGrid:
        return dataclasses.replace(self, step=arrange(self.step))


def _functions(values: Any) -> Any:
    """NumPy's functions for its arrays, Keras's for tensors."""
    return np if isinstance(values, (np.ndarray, np.generic)) else ops
