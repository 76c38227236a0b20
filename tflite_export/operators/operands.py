"""An operator with its operands' integers, and what all kernels do with their results."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tflite_export.graph import activations
from tflite_export.graph.case import Case
from tflite_export.graph.kinds import ACTIVATION


@dataclasses.dataclass(frozen=True)
class Operands(Case):
    """What a kernel sees.

    Attributes:
        arrays: integers of the inputs, in order.
    """

    arrays: Sequence[np.ndarray]

    def array(self, role: str) -> np.ndarray:
        """Integers of the operand with a role. Raises KeyError where there is none."""
        index = self.index(role)
        if index is None:
            raise KeyError(f"operator {self.operator.kind} has no {role}")
        return self.arrays[index]

    def aligned(self, index: int = 0) -> np.ndarray:
        """An input's integers, (N, C) as (N, 1, 1, C) where the output has more axes.

        Files have batch 1, where broadcasting does the same; N samples must not meet other axes.
        """
        values = self.arrays[index]
        missing = len(self.output.shape) - values.ndim
        if self.inputs[index].is_constant or missing <= 0:
            return values
        return values.reshape(len(values), *[1] * missing, *values.shape[1:])

    def centred(self, index: int = 0) -> np.ndarray:
        """An input's integers, aligned, minus its zero point, int64."""
        return self.aligned(index).astype(np.int64) - self.inputs[index].quantization.zero_point

    def scales(self) -> list[np.float32]:
        """Scales of the inputs and of the output, for kernels that compute with float32."""
        return [tensor.quantization.scale[0] for tensor in (*self.inputs, self.output)]

    def finished(self, values: np.ndarray, *, activation: str | None = None) -> np.ndarray:
        """Adds the output's zero point, applies the fused activation and saturates."""
        low, high = self.bounds(activation or self.attributes.get(ACTIVATION, activations.NONE))
        shifted = values + self.output.quantization.zero_point
        return np.clip(shifted, low, high).astype(self.output.dtype)

    def bounds(self, activation: str) -> tuple[int, int]:
        """Integers that the output may take under an activation function."""
        info = np.iinfo(self.output.dtype)
        zero_point = self.output.quantization.zero_point
        low, high = int(info.min), int(info.max)
        if activation in activations.RELUS:
            low = max(low, zero_point)
        if activation == activations.RELU6:
            # Kernels divide in float32 and round a half away from zero.
            six = np.float32(6.0) / np.float32(self.output.quantization.scale[0])
            high = min(high, zero_point + int(np.floor(np.float64(six) + 0.5)))
        return low, high
