"""What a TensorFlow Lite file holds, ours or not: operators and tensors with their real widths."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from tflite_export.file.damage import names_damage
from tflite_export.file.packing import CONTAINER_BITS
from tflite_export.file.reader import parse, read_bytes
from tflite_export.file.stored import StoredModel, StoredOperator, StoredTensor


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """One tensor.

    Attributes:
        type: as stored, e.g. "int4".
        bits_used: narrowest signed width that holds a constant's values; None for activations.
        scales: number of scales; 0 where the tensor is not quantized, 1 per tensor.
        scale: the only scale, or the largest of a per-channel tensor.
        bytes: of a constant's data in the file.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    bits_used: int | None
    scales: int
    scale: float | None
    zero_point: int | None
    bytes: int


@dataclasses.dataclass(frozen=True)
class OperatorInfo:
    """One operator; tensors by name."""

    kind: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Content of a file; `as_dict` is ready for JSON, `table` for people."""

    path: str
    size_bytes: int
    subgraphs: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: tuple[OperatorInfo, ...]
    tensors: tuple[TensorInfo, ...]

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def table(self) -> str:
        """One line an operator: its output, and its widest constant with stored and used bits."""
        by_name = {tensor.name: tensor for tensor in self.tensors}
        rows: list[tuple[str, ...]] = [
            ("operator", "output", "type", "shape", "weights", "bits used", "bytes")
        ]
        rows += [_row(operator, by_name) for operator in self.operators]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, f"{self.path}: {self.size_bytes} bytes"])


@names_damage
def inspect(path: str | Path) -> Inspection:
    """Reads a `.tflite` file.

    Raises:
        ValueError: no such file, not TensorFlow Lite, or damaged.

    Example:
        >>> inspection = tflite_export.inspect("m.tflite")
        >>> [operator.kind for operator in inspection.operators]
        ['FULLY_CONNECTED', 'FULLY_CONNECTED', 'FULLY_CONNECTED']
    """
    content = read_bytes(path)
    model = parse(content)
    names = [tensor.name for tensor in model.tensors]
    return Inspection(
        str(path),
        len(content),
        model.subgraphs,
        tuple(names[index] for index in model.inputs),
        tuple(names[index] for index in model.outputs),
        tuple(_operator_info(operator, model) for operator in model.operators),
        tuple(_tensor_info(tensor) for tensor in model.tensors),
    )


def _operator_info(operator: StoredOperator, model: StoredModel) -> OperatorInfo:
    return OperatorInfo(
        operator.kind,
        operator.version,
        tuple(tensor.name for tensor in model.read_by(operator)),
        tuple(tensor.name for tensor in model.written_by(operator)),
    )


def _tensor_info(tensor: StoredTensor) -> TensorInfo:
    scale, zero_point = tensor.scale, tensor.zero_point
    return TensorInfo(
        tensor.name,
        tensor.type,
        tensor.shape,
        bits_used(tensor),
        0 if scale is None else scale.size,
        None if scale is None else float(scale.max()),
        None if zero_point is None or not zero_point.size else int(zero_point[0]),
        tensor.stored_bytes,
    )


def bits_used(tensor: StoredTensor) -> int | None:
    """Narrowest signed width that holds a constant's integers."""
    values = tensor.values
    if values is None or not values.size or tensor.type not in CONTAINER_BITS:
        return None
    low, high = int(values.min()), int(values.max())
    return max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0, 1) + 1


def _row(operator: OperatorInfo, tensors: dict[str, TensorInfo]) -> tuple[str, ...]:
    output = tensors[operator.outputs[0]] if operator.outputs else None
    # Axes, shapes and other numbers of places are constants, too, but no weights.
    constants = [
        tensor
        for tensor in (tensors[name] for name in operator.inputs)
        if tensor.bytes and (tensor.scale is not None or "float" in tensor.type)
    ]
    weights = max(constants, key=lambda tensor: np.prod(tensor.shape), default=None)
    return (
        operator.kind,
        output.name if output else "",
        output.type if output else "",
        "x".join(map(str, output.shape)) if output else "",
        weights.type if weights else "",
        str(weights.bits_used) if weights and weights.bits_used else "",
        str(weights.bytes) if weights else "",
    )
