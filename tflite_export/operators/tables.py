"""Tables of a function of one integer: the places of its results, and what chooses among them.

No runtime has an operator that takes a table of int8; GATHER takes int32 places from 0 on. A CAST
of the integers and the distance of the lowest from 0 make them: each exact in every runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tflite_export.graph.activations import NONE
from tflite_export.graph.kinds import ACTIVATION, OperatorKind, register
from tflite_export.graph.operand_rules import INDEX
from tflite_export.graph.shapes import same
from tflite_export.graph.signs import is_positive
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


def integers(tensors: Mapping[str, Tensor], operators: Sequence[Operator], name: str) -> np.ndarray:
    """The integers of a tensor that a table has results for, in their order.

    All that its type has; of 16 bits without the negative ones where it cannot hold them, as in
    normalizations: half of 128 KiB.

    Args:
        tensors, operators: of the graph, as far as it has been made.
    """
    info, zero_point = np.iinfo(tensors[name].dtype), tensors[name].quantization.zero_point
    is_half = info.bits == 16 and zero_point == 0 and is_positive(tensors, operators, name)
    return np.arange(0 if is_half else info.min, info.max + 1)


def place_operators(
    source: Tensor, first: int, layer: str, unique: Callable[[str], str]
) -> tuple[list[Tensor], list[Operator]]:
    """What turns the integers of a tensor into places of a table.

    Args:
        first: of `integers`, whose place is 0.
        unique: makes a name one that no tensor has.

    Returns:
        The tensors, of which the last one holds the places, and the operators.
    """
    one = Quantization(np.ones(1, np.float32))
    whole = Tensor(unique(f"{layer}/integers"), source.shape, INDEX, one, bits=32)
    widened = Operator(CAST.name, (source.name,), (whole.name,), layer, {})
    if first == 0:
        return [whole], [widened]
    lowest = np.full([1] * len(source.shape), -first, np.int32)
    tensors, shifted = shift_operator(whole, lowest, f"{layer}/lowest", layer, unique)
    return [whole, *tensors], [widened, shifted]


def shift_operator(
    source: Tensor, amounts: np.ndarray, name: str, layer: str, unique: Callable[[str], str]
) -> tuple[list[Tensor], Operator]:
    """What counts places from others on.

    Args:
        amounts: that are added, int32, with the axes of the source.
        name: of their tensor.
        unique: makes a name one that no tensor has.

    Returns:
        The amounts and the places, and the operator.
    """
    one = Quantization(np.ones(1, np.float32))
    shift = Tensor(unique(name), amounts.shape, INDEX, one, amounts, 32)
    places = Tensor(unique(f"{layer}/places"), source.shape, INDEX, one, bits=32)
    names = source.name, shift.name
    return [shift, places], Operator(ADD.name, names, (places.name,), layer, {ACTIVATION: NONE})
