"""Uniform integers: the grid that every kernel executes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from keras import ops

from tfeptq.canonical.integer_types import weight_range
from tfeptq.quantized.weight_grid import Bounds, StoredWeights


@dataclasses.dataclass(frozen=True)
class UniformGrid:
    """All integers of a width: step * n with n in [-2^(b-1), 2^(b-1) - 1], of 8 bits from -127 on.

    See `tfeptq.quantized.weight_grid.WeightGrid`. A place is the integer below, even beyond bounds.

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

    @classmethod
    def restored(
        cls, step: Any, tables: Mapping[str, Any], *, bits: int, per_channel: bool
    ) -> UniformGrid:
        return cls(bits, step, per_channel)

    @staticmethod
    def code_bits(bits: int) -> int:
        return bits

    @staticmethod
    def table_shapes(scales: tuple[int, ...], *, bits: int) -> dict[str, tuple[int, ...]]:
        return {}

    @property
    def tables(self) -> Mapping[str, Any]:
        return {}

    def adapted(self, weights: np.ndarray, importance: np.ndarray) -> UniformGrid:
        return self

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
        if not isinstance(scaled, np.ndarray):
            return (self._nearest(scaled, self.bounds()) - scaled) * self.step
        # Searches ask for it thousands of times: nothing is made twice.
        low, high = self.bounds()
        error = np.rint(scaled)
        np.minimum(np.maximum(error, low, out=error), high, out=error)
        error -= scaled
        error *= self.step
        return error

    def stored(self, integers: np.ndarray) -> StoredWeights:
        scale = np.asarray(self.step, np.float32).reshape(-1)
        return StoredWeights(np.asarray(integers).astype(np.int8), scale, self.bits)

    def arranged(self, arrange: Callable[[Any], Any]) -> UniformGrid:
        return dataclasses.replace(self, step=arrange(self.step))


def _functions(values: Any) -> Any:
    """NumPy's functions for its arrays, Keras's for tensors."""
    return np if isinstance(values, (np.ndarray, np.generic)) else ops
