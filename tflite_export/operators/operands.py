"""An operator with its operands, and what all kernels do with their results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tflite_export.graph.structure import Operator, Tensor


@dataclasses.dataclass(frozen=True)
class Operands:
    """What a kernel sees.

    Attributes:
        tensors: descriptions of the inputs, in order.
        arrays: their integers.
        output: description of the output.
    """

    operator: Operator
    tensors: Sequence[Tensor]
    arrays: Sequence[np.ndarray]
    output: Tensor

    @classmethod
    def of(
        cls, operator: Operator, tensors: Mapping[str, Tensor], arrays: Sequence[np.ndarray]
    ) -> Operands:
        described = [tensors[name] for name in operator.inputs]
        return cls(operator, described, arrays, tensors[operator.outputs[0]])

    def scale(self, index: int = 0) -> np.float64:
        """Per-tensor scale of an input."""
        return np.float64(self.tensors[index].quantization.scale[0])

    @property
    def output_scale(self) -> np.float64:
        return np.float64(self.output.quantization.scale[0])

    def aligned(self, index: int = 0) -> np.ndarray:
        """An input's integers, (N, C) as (N, 1, 1, C) where the output has more axes.

        Files have batch 1, where broadcasting does the same; N samples must not meet other axes.
        """
        values = self.arrays[index]
        missing = len(self.output.shape) - values.ndim
        if self.tensors[index].is_constant or missing <= 0:
            return values
        return values.reshape(len(values), *[1] * missing, *values.shape[1:])

    def centred(self, index: int = 0) -> np.ndarray:
        """An input's integers, aligned, minus its zero point, int64."""
        return self.aligned(index).astype(np.int64) - self.tensors[index].quantization.zero_point

    def finished(self, values: np.ndarray, *, activation: str | None = None) -> np.ndarray:
        """Adds the output's zero point, applies the fused activation and saturates."""
        low, high = self.bounds(activation or self.operator.attributes.get("activation", "NONE"))
        shifted = values + self.output.quantization.zero_point
        return np.clip(shifted, low, high).astype(self.output.dtype)

    def bounds(self, activation: str) -> tuple[int, int]:
        """Integers that the output may take under an activation function."""
        info = np.iinfo(self.output.dtype)
        zero_point = self.output.quantization.zero_point
        low, high = int(info.min), int(info.max)
        if activation in ("RELU", "RELU6"):
            low = max(low, zero_point)
        if activation == "RELU6":
            # Kernels divide in float32 and round a half away from zero.
            six = np.float32(6.0) / np.float32(self.output.quantization.scale[0])
            high = min(high, zero_point + int(np.floor(np.float64(six) + 0.5)))
        return low, high
