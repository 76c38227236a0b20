"""The integer graph: what was learned, as integers and float32 scales, before any file format.

`tfeptq` freezes a quantized Keras model into an `IntegerGraph`; the integer reference executes it,
the lowering writes it. Nothing here depends on TensorFlow, Keras or a runtime.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

#: Bytes of one element of an activation or bias type.
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
        dtype: one of `DTYPES`; the *container* of narrower learned widths is the lowering's choice.
        quantization: None only for tensors that are not quantized (none are at present).
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
        kind: builtin operator name, e.g. "CONV_2D".
        inputs, outputs: tensor names.
        attributes: see `ATTRIBUTES`.
        layer: name of the Keras layer the operator comes from.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layer: str
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_WINDOW = ("padding", "stride_h", "stride_w")
#: Operator kind -> names of the attributes it carries, all required.
#: padding: "SAME" | "VALID"; activation: "NONE" | "RELU" | "RELU6".
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "CONV_2D": (*_WINDOW, "dilation_h", "dilation_w", "activation"),
    "DEPTHWISE_CONV_2D": (*_WINDOW, "dilation_h", "dilation_w", "depth_multiplier", "activation"),
    "FULLY_CONNECTED": ("keep_num_dims", "activation"),
    "ADD": ("activation",),
    "SUB": ("activation",),
    "MUL": ("activation",),
    "MAXIMUM": (),
    "MINIMUM": (),
    "CONCATENATION": ("axis",),
    "MAX_POOL_2D": (*_WINDOW, "filter_h", "filter_w"),
    "AVERAGE_POOL_2D": (*_WINDOW, "filter_h", "filter_w"),
    "MEAN": ("axes", "keep_dims"),
    "RESHAPE": ("new_shape",),
    "TRANSPOSE": ("permutation",),
    "PAD": ("paddings",),
    "SLICE": ("begin", "size"),
    "RESIZE_NEAREST_NEIGHBOR": ("size",),
    "RESIZE_BILINEAR": ("size", "half_pixel_centers"),
    "RELU": (),
    "RELU6": (),
    "LEAKY_RELU": ("alpha",),
    "PRELU": (),
    "HARD_SWISH": (),
    "LOGISTIC": (),
    "TANH": (),
    "SOFTMAX": (),
    "QUANTIZE": (),
}
#: Operators that need their third input, the bias, and why.
BIAS_REQUIRED = {
    "CONV_2D": "LiteRT refuses it without one",
    "DEPTHWISE_CONV_2D": "XNNPACK ends the process without one",
}
#: Operators that copy, select or average integers: all inputs share the output's parameters.
TIED = (
    "CONCATENATION",
    "MAX_POOL_2D",
    "AVERAGE_POOL_2D",
    "RESHAPE",
    "TRANSPOSE",
    "PAD",
    "SLICE",
    "MAXIMUM",
    "MINIMUM",
    "RESIZE_NEAREST_NEIGHBOR",
    "RESIZE_BILINEAR",
)
#: Kernels hold scale * 2^26 of an int8 softmax's input as a multiplier greater than one.
SOFTMAX_SCALE = 2.0**-26
#: Operators whose second input is a constant of learned weights.
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


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

    def validate(self) -> IntegerGraph:
        """Checks that the graph is complete and in order; returns it.

        Raises:
            ValueError: names the operator, what was found and what is allowed.
        """
        from tflite_export.graph.codes import check_codes
        from tflite_export.graph.operand_rules import check_operands
        from tflite_export.graph.shapes import check_shapes

        for tensor in self.tensors.values():
            _check_tensor(tensor)
        ready = {name for name, tensor in self.tensors.items() if tensor.is_constant}
        ready |= {tensor for _, tensor in self.inputs}
        for operator in self.operators:
            _check_operator(operator, self.tensors, ready)
            check_operands(operator, self.tensors)
            _check_kernels(operator, self.tensors)
            inputs = [self.tensors[name] for name in operator.inputs]
            check_shapes(operator, inputs, self.tensors[operator.outputs[0]])
            ready |= set(operator.outputs)
        for public, name in self.outputs:
            if name not in ready:
                raise ValueError(f"output {public!r} reads tensor {name!r}, which nothing writes")
        check_codes(self)
        return self

    def constants(self, operator: Operator) -> list[Tensor]:
        return [self.tensors[name] for name in operator.inputs if self.tensors[name].is_constant]


def _check_operator(
    operator: Operator, tensors: Mapping[str, Tensor], ready: Iterable[str]
) -> None:
    where = f"operator {operator.kind} of layer {operator.layer!r}"
    if operator.kind not in ATTRIBUTES:
        raise ValueError(f"{where}: unknown kind; allowed are {', '.join(sorted(ATTRIBUTES))}")
    if set(operator.attributes) != set(ATTRIBUTES[operator.kind]):
        raise ValueError(
            f"{where}: has attributes {sorted(operator.attributes)}, "
            f"needs exactly {sorted(ATTRIBUTES[operator.kind])}"
        )
    for name in (*operator.inputs, *operator.outputs):
        if name not in tensors:
            raise ValueError(f"{where}: tensor {name!r} does not exist")
    for name in operator.inputs:
        if name not in ready:
            raise ValueError(f"{where} reads {name!r}, which nothing has written before it")
    for name in operator.outputs:
        if name in ready:
            raise ValueError(f"{where}: writes {name!r}, which is written before")


def _check_kernels(operator: Operator, tensors: Mapping[str, Tensor]) -> None:
    """What kernels refuse, compute wrongly or do not survive."""
    where = f"operator {operator.kind} of layer {operator.layer!r}"
    given = tensors[operator.inputs[0]]
    if operator.kind == "SOFTMAX" and given.dtype == "int8":
        _check_softmax(float(given.quantization.scale[0]), where)
    if operator.kind in TIED:
        _check_tied(operator, tensors, where)


def _check_softmax(scale: float, where: str) -> None:
    if scale <= SOFTMAX_SCALE:
        raise ValueError(
            f"{where}: its input has scale {scale:.3g}, kernels abort the program at "
            f"{SOFTMAX_SCALE:.3g} and below: the logits are the same for all samples; has the "
            "model been trained?"
        )


def _check_tied(operator: Operator, tensors: Mapping[str, Tensor], where: str) -> None:
    made = tensors[operator.outputs[0]]
    for given in (tensors[name] for name in operator.inputs):
        if parameters(given) != parameters(made):
            raise ValueError(
                f"{where}: copies integers, so {given.name!r} {parameters(given)} and "
                f"{made.name!r} {parameters(made)} must have the same type, scale and zero "
                "point; put a QUANTIZE before it"
            )


def is_shares(tensor: Tensor) -> bool:
    """Whether a tensor has the parameters of a softmax's 16-bit results, see `SHARES`."""
    return tensor.dtype == "int16" and (
        parameters(tensor)[1:] == (SHARES.scale.tolist(), SHARES.zero_point)
    )


def parameters(tensor: Tensor) -> tuple[str, list[float], int]:
    """Type, scales and zero point: what an activation's integers mean."""
    quantization = tensor.quantization
    return tensor.dtype, quantization.scale.tolist(), quantization.zero_point


def _check_tensor(tensor: Tensor) -> None:
    where = f"tensor {tensor.name!r}"
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{where}: dtype {tensor.dtype!r}; allowed are {DTYPES}")
    limits = np.iinfo(tensor.dtype)
    if not limits.min <= tensor.quantization.zero_point <= limits.max:
        raise ValueError(
            f"{where}: zero point {tensor.quantization.zero_point} lies outside of {tensor.dtype}"
        )
    if tensor.dtype == "int16" and tensor.quantization.zero_point != 0 and not is_shares(tensor):
        raise ValueError(
            f"{where}: int16 needs zero point 0, received {tensor.quantization.zero_point}"
        )
    if tensor.data is None:
        return
    if tensor.data.dtype != np.dtype(tensor.dtype) or tensor.data.shape != tensor.shape:
        raise ValueError(
            f"{where}: data is {tensor.data.dtype} {tensor.data.shape}, "
            f"declared {tensor.dtype} {tensor.shape}"
        )
    low, high = -(2 ** (tensor.bits - 1)), 2 ** (tensor.bits - 1) - 1
    if tensor.data.size and not (low <= int(tensor.data.min()) and int(tensor.data.max()) <= high):
        raise ValueError(f"{where}: values outside the {tensor.bits}-bit range [{low}, {high}]")
