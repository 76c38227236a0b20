"""The integer graph: what was learned, as integers and float32 scales, before any file format.

`tfeptq` freezes a quantized Keras model into an `IntegerGraph`; the integer reference executes it,
`tflite_export.file.writer` writes it. Nothing here depends on TensorFlow, Keras or a runtime.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

#: Types of activations, weights, biases and numbers of places.
DTYPES = ("int8", "int16", "int32", "int64")


@dataclasses.dataclass(frozen=True)
class Quantization:
    """Affine quantization: real = scale * (integer - zero_point).

    Attributes:
        scale: float32, shape `(1,)` for per-tensor or `(channels,)` for per-channel.
        zero_point: one integer for the whole tensor; always 0 for weights, biases and int16.
        axis: the quantized dimension where `scale` has more than one entry.
    """

    scale: np.ndarray
    zero_point: int = 0
    axis: int = 0

    def __post_init__(self) -> None:
        scale = np.atleast_1d(np.asarray(self.scale))
        if scale.dtype != np.float32 or scale.ndim != 1:
            raise ValueError(
                f"scale must be a float32 vector, received {scale.dtype} {scale.shape}"
            )
        if not (np.all(np.isfinite(scale)) and np.all(scale > 0)):
            raise ValueError(f"scale must be positive and finite, received {scale}")
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "zero_point", int(self.zero_point))

    @property
    def per_channel(self) -> bool:
        return self.scale.size > 1


#: Of the 16-bit results of a softmax of int8: the only int16 tensor with a zero point.
SHARES = Quantization(np.array([2.0**-16], np.float32), -(2**15))


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of the file.

    Attributes:
        name: unique in the graph; carries the name of the Keras layer it comes from.
        shape: with the batch dimension, which is 1.
        dtype: one of `DTYPES`; in which container narrower weights are stored decides
            `tflite_export.targets.containers`.
        quantization: numbers of places have the scale 1, which no file holds.
        data: the learned integers of a constant, None for an activation.
        bits: the learned width: every value of `data` fits in it; activations of fewer than 8 bits
            use the highest 2^bits codes (see `tflite_export.graph.codes`).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization
    data: np.ndarray | None = None
    bits: int = 8

    @property
    def is_constant(self) -> bool:
        return self.data is not None


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator, named as in TensorFlow Lite, with its attributes as plain Python values.

    Attributes:
        kind: builtin operator name of the schema.
        inputs, outputs: tensor names; inputs in the order of the kind's roles.
        attributes: see its `tflite_export.graph.kinds.OperatorKind`.
        layer: name of the Keras layer the operator comes from.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layer: str
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def where(self) -> str:
        """What errors call it."""
        return f"operator {self.kind} of layer {self.layer!r}"


@dataclasses.dataclass(frozen=True)
class IntegerGraph:
    """A whole network in integers: operators in execution order, tensors by name.

    Layouts are TensorFlow Lite's: activations NHWC, CONV_2D weights OHWI, DEPTHWISE_CONV_2D
    weights 1HWC (C = input channels * multiplier), FULLY_CONNECTED weights (out, in).

    Attributes:
        inputs, outputs: pairs (public name, tensor name), in the Keras model's order.
    """

    name: str
    tensors: Mapping[str, Tensor]
    operators: tuple[Operator, ...]
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]

    def constants(self, operator: Operator) -> list[Tensor]:
        return [self.tensors[name] for name in operator.inputs if self.tensors[name].is_constant]


def is_shares(tensor: Tensor) -> bool:
    """Whether a tensor has the parameters of a softmax's 16-bit results, see `SHARES`."""
    return tensor.dtype == "int16" and (
        parameters(tensor)[1:] == (SHARES.scale.tolist(), SHARES.zero_point)
    )


def parameters(tensor: Tensor) -> tuple[str, list[float], int]:
    """Type, scales and zero point: what an activation's integers mean."""
    quantization = tensor.quantization
    return tensor.dtype, quantization.scale.tolist(), quantization.zero_point
