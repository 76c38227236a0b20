"""Tables of a function of one integer: the places of its results, and what chooses among them.

No runtime has an operator that takes a table of int8; GATHER takes int32 places from 0 on. A CAST
of the integers and the distance of the lowest from 0 make them: each exact in every runtime.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tflite_export.graph.kinds import ACTIVATION, OperatorKind, register
from tflite_export.graph.shapes import same
from tflite_export.graph.structure import Operator, Quantization, Tensor
from tflite_export.operators.elementwise import ADD
from tflite_export.operators.operands import Operands


def cast(operands: Operands) -> np.ndarray:
    return operands.arrays[0].astype(np.int32)


CAST = register(
    OperatorKind(
        "CAST",
        cast,
        same,
        versions=(1, 1),
        makes_indices=True,
    )
)


def integers(dtype: str) -> np.ndarray:
    """All integers of a type, in the order in which a table has their results."""
    info = np.iinfo(dtype)
    return np.arange(info.min, info.max + 1)


def place_operators(
    source: Tensor, layer: str, unique: Callable[[str], str]
) -> tuple[list[Tensor], list[Operator]]:
    """What turns the integers of a tensor into places of a table.

    Args:
        unique: makes a name one that no tensor has.

    Returns:
        The tensors, of which the last one holds the places, and the operators.
    """
    one = Quantization(np.ones(1, np.float32))
    lowest = np.full([1] * len(source.shape), -integers(source.dtype)[0], np.int32)
    whole = Tensor(unique(f"{layer}/integers"), source.shape, "int32", one, bits=32)
    shift = Tensor(unique(f"{layer}/lowest"), lowest.shape, "int32", one, lowest, 32)
    places = Tensor(unique(f"{layer}/places"), source.shape, "int32", one, bits=32)
    return [whole, shift, places], [
        Operator(CAST.name, (source.name,), (whole.name,), layer, {}),
        Operator(ADD.name, (whole.name, shift.name), (places.name,), layer, {ACTIVATION: "NONE"}),
    ]
