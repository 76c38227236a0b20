"""What a TensorFlow Lite file holds, as plain tables: tensors, operators and its ends."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tflite_export.graph.kinds import is_known, kind_of


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor as the file holds it; `values` of packed containers are unpacked to int8.

    Attributes:
        buffer: number of the buffer that holds its bytes; tensors may share one.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    scale: np.ndarray | None
    zero_point: np.ndarray | None
    axis: int
    stored_bytes: int
    values: np.ndarray | None
    buffer: int

    @property
    def offset(self) -> int:
        """The (first) zero point; what a file does not say is 0."""
        given = self.zero_point
        return int(given[0]) if given is not None and given.size else 0

    @property
    def per_channel(self) -> bool:
        return self.scale is not None and self.scale.size > 1


@dataclasses.dataclass(frozen=True)
class StoredOperator:
    """An operator as the file holds it; -1 among the inputs is an absent operand."""

    kind: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any

    def operand(self, role: str) -> int | None:
        """The tensor with a role; None where it is absent, or where we do not know the operator."""
        if not is_known(self.kind):
            return None
        order = kind_of(self.kind).order(len(self.inputs))
        index = self.inputs[order.index(role)] if role in order else -1
        return index if index >= 0 else None

    @property
    def source(self) -> int | None:
        """The first tensor that it computes with, of an unknown operator its first input."""
        if is_known(self.kind):
            return self.operand(kind_of(self.kind).roles[0])
        return next((index for index in self.inputs if index >= 0), None)


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """The first subgraph of a file.

    Attributes:
        inputs, outputs: numbers of tensors.
        input_names, output_names: public ones, of the signature where the file has one.
        subgraphs: how many the file has.
    """

    name: str
    tensors: tuple[StoredTensor, ...]
    operators: tuple[StoredOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    subgraphs: int
    description: str

    def read_by(self, operator: StoredOperator) -> list[StoredTensor]:
        """Tensors that an operator reads; absent operands are left out."""
        return [self.tensors[index] for index in operator.inputs if index >= 0]

    def written_by(self, operator: StoredOperator) -> list[StoredTensor]:
        return [self.tensors[index] for index in operator.outputs if index >= 0]

    def operand(self, operator: StoredOperator, role: str) -> StoredTensor | None:
        """The tensor with a role, see `StoredOperator.operand`."""
        index = operator.operand(role)
        return None if index is None else self.tensors[index]

    def source(self, operator: StoredOperator) -> StoredTensor | None:
        """See `StoredOperator.source`."""
        return None if operator.source is None else self.tensors[operator.source]

    def where(self, operator: StoredOperator) -> str:
        """What findings call an operator: "KIND (output tensor)"."""
        written = self.written_by(operator)
        return f"{operator.kind} ({written[0].name if written else 'no output'})"
