"""Functions of one tensor, value by value, and arithmetic of two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from tfeptq.preparation.tensorflow_graphs.operators.gelu import (
    error_function,
    product_of,
    sum_of,
)
from tfeptq.preparation.tensorflow_graphs.operators.handler import (
    Handler,
    constant,
    require_channels_last,
)
from tfeptq.preparation.tensorflow_graphs.scope import Scope
from tfeptq.preparation.tensorflow_graphs.values import (
    Rows,
    UnreadableGraphError,
    is_tensor,
    per_sample,
    symbol,
)


def _one(function: Callable[[Any], Any]) -> Handler:
    def handler(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
        return read[0].of(function) if isinstance(read[0], Rows) else function(symbol(read[0]))

    return handler


def _two(function: Callable[[Any, Any], Any]) -> Handler:
    def handler(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
        return _joined(function, per_sample(read[0]), per_sample(read[1]))

    return handler


def _joined(function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    if isinstance(left, Rows) and isinstance(right, Rows):
        return Rows(function(left.tensor, right.tensor))
    if isinstance(left, Rows):
        return left.of(lambda tensor: function(tensor, _of_features(right)))
    if isinstance(right, Rows):
        return right.of(lambda tensor: function(_of_features(left), tensor))
    return function(symbol(left), symbol(right))


def _of_features(value: Any) -> Any:
    """A constant that joined axes broadcast: one number, or one a feature."""
    array = np.asarray(symbol(value))
    if array.ndim > 1 and array.shape[0] != 1:
        raise UnreadableGraphError("a constant meets the samples' axis joined with another")
    return array.reshape(-1) if array.ndim else array


def _add(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    left, right = (per_sample(value) for value in read)
    return sum_of(left, right) or _joined(ops.add, left, right)


def _sum(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    total, *others = read
    for value in others:
        total = _joined(ops.add, per_sample(total), per_sample(value))
    return total


def _multiply(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    left, right = (per_sample(value) for value in read)
    found = product_of(left, right, scope)
    if found is not None:
        return found
    made = _joined(ops.multiply, left, right)
    for number, tensor in ((left, right), (right, left)):
        if not is_tensor(number) and np.size(number) == 1:
            scope.note_multiple(made, tensor, float(np.ravel(number)[0]))
    return made


def _divide(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    left, right = (per_sample(value) for value in read)
    made = _joined(ops.divide, left, right)
    if not is_tensor(right) and np.size(right) == 1:
        scope.note_multiple(made, left, 1.0 / float(np.ravel(right)[0]))
    return made


def _negative(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    made = _one(ops.negative)(operation, read, scope)
    scope.note_multiple(made, read[0], -1.0)
    return made


def _bias(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    require_channels_last(operation)
    return _joined(ops.add, read[0], constant(operation, read[1]))


def _leaky_relu(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    slope = operation.get_attr("alpha")
    return ops.leaky_relu(symbol(read[0]), negative_slope=slope)


def _cast(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    made, given = operation.get_attr("DstT"), operation.get_attr("SrcT")
    if given.is_floating and made.is_integer:
        # In front of an embedding, say: the layer itself takes floats.
        raise UnreadableGraphError(
            f"Cast ({operation.name!r}) makes whole numbers of floats: keep tensors in floating "
            "point, and make tokens an input of dtype='int32'"
        )
    return ops.cast(symbol(read[0]), made.name)


def _batch_normalization(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    """y = gain * (x - mean) / sqrt(variance + epsilon) + offset."""
    require_channels_last(operation)
    if operation.get_attr("is_training"):
        raise UnreadableGraphError(f"{operation.name!r} normalizes by the statistics of its batch")
    gain, offset, mean, variance = (
        constant(operation, value).astype(np.float64) for value in read[1:5]
    )
    scale = gain / np.sqrt(variance + operation.get_attr("epsilon"))
    shift = offset - mean * scale
    scaled = ops.multiply(symbol(read[0]), scale.astype(np.float32))
    return [ops.add(scaled, shift.astype(np.float32))]


def _squared_difference(left: Any, right: Any) -> Any:
    return ops.square(ops.subtract(left, right))


def _same(value: Any) -> Any:
    return value


def _all(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    return list(read)


def _over_features(function: Callable[..., Any]) -> Handler:
    return lambda operation, read, scope: function(symbol(read[0]), axis=-1)


def _choice(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    if _counts_from_the_end(operation):
        # So do Keras's look-ups, which write it in front of each.
        return read[2]
    return ops.where(*(symbol(per_sample(value)) for value in read))


def _counts_from_the_end(operation: tf.Operation) -> bool:
    """Whether it is where(i < 0, i + n, i) of whole numbers."""
    condition, moved, same = (tensor.op for tensor in operation.inputs)
    if not operation.inputs[2].dtype.is_integer or (condition.type, moved.type) != (
        "Less",
        "AddV2",
    ):
        return False
    return condition.inputs[0].op is moved.inputs[0].op is same


def _clip(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    low, high = (float(constant(operation, value)) for value in read[1:])
    return ops.clip(symbol(read[0]), low, high)


def _local_response(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    """x / (bias + alpha * sum of the squares of channels nearby) ** beta."""
    tensor = symbol(read[0])
    radius, bias, alpha, beta = map(operation.get_attr, ("depth_radius", "bias", "alpha", "beta"))
    channels = np.arange(tensor.shape[-1])
    is_near = np.abs(channels[:, None] - channels) <= radius
    sums = ops.matmul(ops.square(tensor), (alpha * is_near).astype(np.float32))
    return tensor * ops.power(sums + bias, -beta)


#: Functions whose names in `keras.ops` differ by their case.
_NAMED_ALIKE = (
    "Ceil",
    "Cos",
    "Cosh",
    "Expm1",
    "Floor",
    "Log1p",
    "Round",
    "Sign",
    "Sin",
    "Sinh",
    "Tan",
)
_ARCS = ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh")

HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(
        ("Identity", "StopGradient", "PreventGradient", "Snapshot", "CheckNumerics"), _one(_same)
    ),
    **{name: _one(getattr(ops, name.lower())) for name in _NAMED_ALIKE},
    **{name: _one(getattr(ops, f"arc{name[1:]}")) for name in _ARCS},
    "Abs": _one(ops.absolute),
    "Add": _add,
    "AddN": _sum,
    "AddV2": _add,
    "BiasAdd": _bias,
    "Cast": _cast,
    "ClipByValue": _clip,
    "Div": _divide,
    "DivNoNan": _two(ops.divide_no_nan),
    "Elu": _one(ops.elu),
    "Equal": _two(ops.equal),
    "Erf": error_function,
    "Erfc": error_function,
    "Exp": _one(ops.exp),
    **dict.fromkeys(
        ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), _batch_normalization
    ),
    "Greater": _two(ops.greater),
    "GreaterEqual": _two(ops.greater_equal),
    "IdentityN": _all,
    "LRN": _local_response,
    "LeakyRelu": _leaky_relu,
    "Less": _two(ops.less),
    "LessEqual": _two(ops.less_equal),
    "Log": _one(ops.log),
    "LogSoftmax": _over_features(ops.log_softmax),
    "LogicalAnd": _two(ops.logical_and),
    "LogicalNot": _one(ops.logical_not),
    "LogicalOr": _two(ops.logical_or),
    "Maximum": _two(ops.maximum),
    "Minimum": _two(ops.minimum),
    "Mul": _multiply,
    "Neg": _negative,
    "NotEqual": _two(ops.not_equal),
    "OnesLike": _one(ops.ones_like),
    "Pow": _two(ops.power),
    "RealDiv": _divide,
    "Reciprocal": _one(lambda x: ops.divide(1.0, x)),
    "Relu": _one(ops.relu),
    "Relu6": _one(ops.relu6),
    "Rint": _one(ops.round),
    "Rsqrt": _one(ops.rsqrt),
    "SelectV2": _choice,
    "Selu": _one(ops.selu),
    "Sigmoid": _one(ops.sigmoid),
    "Softmax": _over_features(ops.softmax),
    "Softplus": _one(ops.softplus),
    "Softsign": _one(ops.softsign),
    "Sqrt": _one(ops.sqrt),
    "Square": _one(ops.square),
    "SquaredDifference": _two(_squared_difference),
    "Sub": _two(ops.subtract),
    "Tanh": _one(ops.tanh),
    "ZerosLike": _one(ops.zeros_like),
}
