"""The tensors of a file: which quantizer each has, and how kernels read them.

Who gets which is decided in `tfeptq.plan.assignment`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import keras

from tfeptq.canonical.integer_types import activation_dtype, activation_range
from tfeptq.canonical.layer_graph import Key
from tfeptq.canonical.primitives import Output, primitive_of
from tfeptq.canonical.topology import output_of, relu_cap
from tflite_export.graph.kinds import kind_of

#: Share of a ReLU's bound from which on its values have the codes that they need.
_NEAR_BOUND = 0.9


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """Scale and zero point of one or more tensors; becomes one `ActivationQuantizer`.

    Attributes:
        name: no other quantizer and no layer has it.
        bits: width of its codes.
        fixed: scale and zero point where the kernel demands them, or a request fixes them.
        sources: tensors of the canonical model that are computed in its scale.
        read: those of its scale in which they are read in the end, see `Topology.read`. For what
            its range is chosen, see `tfeptq.calibrate.read_values`.
        chosen: what maxima choose of them, see `Topology.chosen`: few values, each of which stands
            for many.
        narrows: it makes the 8-bit copy of a 16-bit tensor.
    """

    name: str
    bits: int
    fixed: tuple[float, int] | None
    sources: tuple[Key, ...]
    read: tuple[Key, ...]
    chosen: tuple[Key, ...]
    narrows: bool = False

    @property
    def dtype(self) -> str:
        """Type of its tensors in the file: "int8" or "int16"."""
        return activation_dtype(self.bits)


@dataclasses.dataclass(frozen=True)
class TensorPlan:
    """A tensor of the file.

    Attributes:
        origin: where its quantizer comes from: "own", "tied" (its input's), "fixed" (by its kernel,
            or by a request) or "shared" (one with other tensors that a kernel joins).
        is_exact: its kernel only moves integers, or drops some: they are on the grid already.
    """

    quantizer: Quantizer
    origin: str
    is_exact: bool

    @property
    def bits(self) -> int:
        return self.quantizer.bits


@dataclasses.dataclass(frozen=True)
class Operand:
    """A tensor as a kernel reads it.

    Attributes:
        key: the tensor.
        quantizer: in whose scale it is read; None: it is no tensor of the file, but in the kernel.
        is_copy: a requantization stands in front; of an array: it is written in this scale.
        is_private: the copy is for this operand alone; others are shared by all that need them.
    """

    key: Key
    quantizer: Quantizer | None
    is_copy: bool = False
    is_private: bool = False


@dataclasses.dataclass(frozen=True)
class TensorPlans:
    """The tensors of a file and how its kernels read them.

    Attributes:
        tensors: of every tensor of the file.
        operands: output of a call -> what it reads, in order; but for arrays.
    """

    tensors: Mapping[Key, TensorPlan]
    operands: Mapping[Key, tuple[Operand, ...]]


def has_fixed_parameters(layer: keras.Layer) -> bool:
    """Whether kernels demand one scale and zero point of the output: softmax, sigmoid, tanh."""
    return output_of(layer) is Output.FIXED


def fixed_parameters(
    layer: keras.Layer, bits: int, reached: float | None = None
) -> tuple[float, int] | None:
    """Scale and zero point that the kernel demands, or that state the bound of a capped ReLU.

    Where a ReLU's values stay well below its bound, the range ends at the largest: integers end
    there too, in front of the bound.

    Args:
        reached: largest value of the output on the calibration samples, None: not known.
    """
    if has_fixed_parameters(layer):
        return kind_of(primitive_of(layer).kind_of(layer)).fixes[activation_dtype(bits)]
    cap = relu_cap(layer)
    if cap is None:
        return None
    if reached is not None and 0.0 < reached < _NEAR_BOUND * cap:
        cap = reached
    low, high = activation_range(bits)
    return (cap / high, 0) if bits == 16 else (cap / (high - low), low)
