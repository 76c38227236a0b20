"""Which tensors of a graph cannot hold negative numbers, whatever its inputs are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tflite_export.graph.activations import RELUS
from tflite_export.graph.case import Case
from tflite_export.graph.codes import lowest
from tflite_export.graph.kinds import clamp_of, kind_of
from tflite_export.graph.structure import Operator, Tensor

#: Integers that kernels make of zeros are zeros, for their zero points are.
_CENTRED = "int16"


def is_positive(tensors: Mapping[str, Tensor], operators: Sequence[Operator], name: str) -> bool:
    """Whether no integer of a tensor is below its zero point.

    By its type and codes, by a ReLU, because it holds integers of tensors that are positive, or, of
    16 bits, as a square, or as a sum, mean or product of what is positive.

    Args:
        operators: those that come before its readers, at least.
    """
    tensor = tensors[name]
    if lowest(tensor) >= tensor.quantization.zero_point:
        return True
    makers = (operator for operator in operators if name in operator.outputs)
    maker = next(makers, None)
    if maker is None:
        return False
    if clamp_of(maker) in RELUS:
        return True
    kind, is_centred = kind_of(maker.kind), tensor.dtype == _CENTRED
    if kind.squares and is_centred and len(set(maker.inputs)) == 1:
        return True
    read = Case.of(maker, tensors).activations
    keeps = kind.ties or (kind.keeps_sign and is_centred)
    return keeps and all(is_positive(tensors, operators, each.name) for each in read)
