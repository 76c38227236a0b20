"""GELU, which TensorFlow writes as x / 2 * erfc(-x / sqrt(2)) or x / 2 * (1 + erf(x / sqrt(2)))."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from tfeptq.preparation.tensorflow_graphs.scope import Scope
from tfeptq.preparation.tensorflow_graphs.values import ErrorFunction, UnreadableGraphError

_ROOT = math.sqrt(0.5)


def error_function(operation: tf.Operation, read: list[Any], scope: Scope) -> ErrorFunction:
    """erf(z) and erfc(z) of a multiple of a tensor that GELU has.

    Raises:
        UnreadableGraphError: another multiple.
    """
    base, factor = scope.multiple_of(read[0])
    sign = -1.0 if operation.type == "Erfc" else 1.0
    if not math.isclose(factor, sign * _ROOT, rel_tol=1e-5):
        raise UnreadableGraphError(f"{operation.type} ({operation.name!r}) is not that of GELU")
    return ErrorFunction(base, int(operation.type == "Erfc"))


def sum_of(left: Any, right: Any) -> ErrorFunction | None:
    """1 + erf; None where neither is an error function.

    Raises:
        UnreadableGraphError: another number.
    """
    for number, value in ((left, right), (right, left)):
        if isinstance(value, ErrorFunction):
            if value.offset == 0 and np.size(number) == 1 and float(np.ravel(number)[0]) == 1.0:
                return ErrorFunction(value.tensor, 1)
            raise UnreadableGraphError("it adds to an error function what GELU does not")
    return None


def product_of(left: Any, right: Any, scope: Scope) -> Any:
    """x / 2 * (1 + erf); None where neither is an error function.

    Raises:
        UnreadableGraphError: another product.
    """
    for half, value in ((left, right), (right, left)):
        if isinstance(value, ErrorFunction):
            base, factor = scope.multiple_of(half)
            if base is value.tensor and value.offset == 1 and factor == 0.5:
                return ops.gelu(base, approximate=False)
            raise UnreadableGraphError("it multiplies an error function by what GELU does not")
    return None
