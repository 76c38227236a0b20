"""What rounding keeps of the float weights' structure: exact zeros, and values that repeat.

Pruned weights are exactly zero, which trained ones never are by chance: their integers are zero.
Clustered layers hold few different values: where a scale has an integer for each of them, equal
weights have equal integers. Nearest rounding does both by itself; whatever chooses integers in
another way asks here.
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from tfeptq.canonical import linear
from tfeptq.quantized.weight_grid import WeightGrid


@dataclasses.dataclass(frozen=True)
class WeightStructure:
    """Of one kernel; both arrays have its shape.

    Attributes:
        zeros: whether a weight is exactly zero.
        shared: flat index of the weight whose integer a weight has: the first of its value under
            its scale, or its own. None: no weight has another's.
    """

    zeros: np.ndarray
    shared: np.ndarray | None

    @classmethod
    def of(cls, layer: keras.Layer, kernel: np.ndarray, grid: WeightGrid) -> WeightStructure:
        """Structure of the kernel of a weighted primitive.

        Args:
            kernel: float weights.
            grid: of the kernel; more different weights under one step than it has levels keep their
                zeros only.
        """
        places = np.arange(kernel.size).reshape(kernel.shape)
        rows = linear.by_channel(layer, places)
        shared = np.arange(kernel.size)
        for row in rows if grid.per_channel else rows.reshape(1, -1):
            values, first, inverse = np.unique(
                kernel.reshape(-1)[row], return_index=True, return_inverse=True
            )
            if len(values) <= grid.levels:
                shared[row] = row[first[inverse]]
        is_shared = bool(np.any(shared != places.reshape(-1)))
        return cls(kernel == 0.0, shared.reshape(kernel.shape) if is_shared else None)

    @property
    def has_zeros(self) -> bool:
        return bool(self.zeros.any())
