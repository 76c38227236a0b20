"""An operator at hand with the tensors that it reads and writes: what its rules are asked about."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tflite_export.graph import limits
from tflite_export.graph.kinds import OperatorKind, kind_of
from tflite_export.graph.structure import Operator, Tensor


@dataclasses.dataclass(frozen=True)
class Case:
    """An operator with its tensors.

    Attributes:
        inputs: in the order of the roles.
    """

    operator: Operator
    inputs: Sequence[Tensor]
    output: Tensor

    @classmethod
    def of(cls, operator: Operator, tensors: Mapping[str, Tensor]) -> Case:
        inputs = [tensors[name] for name in operator.inputs]
        return cls(operator, inputs, tensors[operator.outputs[0]])

    @property
    def kind(self) -> OperatorKind:
        return kind_of(self.operator.kind)

    @property
    def attributes(self) -> Mapping[str, Any]:
        return self.operator.attributes

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [tensor.shape for tensor in self.inputs]

    @property
    def dtype(self) -> str:
        return self.output.dtype

    def index(self, role: str) -> int | None:
        """Place of a role among the inputs; None where the operator has it not."""
        roles = self.kind.roles
        found = roles.index(role) if role in roles else len(self.inputs)
        return found if found < len(self.inputs) else None

    def has(self, role: str) -> bool:
        return self.index(role) is not None

    def tensor(self, role: str) -> Tensor:
        """The operand with a role. Raises KeyError where there is none."""
        index = self.index(role)
        if index is None:
            raise KeyError(f"operator {self.operator.kind} has no {role}")
        return self.inputs[index]

    @property
    def activations(self) -> list[Tensor]:
        """Inputs of the output's type."""
        roles, own = self.kind.roles, self.kind.own_types
        return [
            tensor
            for index, tensor in enumerate(self.inputs)
            if roles[min(index, len(roles) - 1)] not in own
        ]

    @property
    def output_scale(self) -> np.float64:
        return np.float64(self.output.quantization.scale[0])

    def scale(self, index: int = 0) -> np.float64:
        """Scale of an input that has one."""
        return np.float64(self.inputs[index].quantization.scale[0])

    def reach(self, index: int = 0) -> int:
        """Largest distance of an input's integer from its zero point."""
        return largest_distance(self.inputs[index])


def largest_distance(tensor: Tensor) -> int:
    """Of the integers that a tensor can hold from its zero point."""
    if tensor.data is not None:
        return int(np.abs(tensor.data.astype(np.int64) - tensor.quantization.zero_point).max())
    return max(map(abs, limits.reach(tensor.dtype, tensor.quantization.zero_point)))
