"""GELU, which TensorFlow writes as x / 2 * erfc(-x / sqrt(2)) or x / 2 * (1 + erf(x / sqrt(2)))."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from tfeptq.preparation.tensorflow_graphs.scope import Scope
from tfeptq.preparation.tensorflow_graphs.values import ROOT, ErrorFunction, is_tensor, symbol


def error_function(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    """erf(z) and erfc(z); of a multiple that GELU has, they wait for what is made of them."""
    base, factor = scope.multiple_of(read[0])
    is_complement = operation.type == "Erfc"
    if math.isclose(factor, -ROOT if is_complement else ROOT, rel_tol=1e-5):
        return ErrorFunction(base, int(is_complement))
    value = ops.erf(symbol(read[0]))
    return 1.0 - value if is_complement else value


def sum_of(left: Any, right: Any) -> ErrorFunction | None:
    """1 + erf; None for any other sum."""
    for number, value in ((left, right), (right, left)):
        is_one = not is_tensor(number) and np.size(number) == 1 and np.ravel(number)[0] == 1.0
        if isinstance(value, ErrorFunction) and value.offset == 0 and is_one:
            return ErrorFunction(value.tensor, 1)
    return None


def product_of(left: Any, right: Any, scope: Scope) -> Any:
    """x / 2 * (1 + erf); None for any other product."""
    for half, value in ((left, right), (right, left)):
        if isinstance(value, ErrorFunction):
            base, factor = scope.multiple_of(half)
            if base is value.tensor and value.offset == 1 and factor == 0.5:
                return ops.gelu(base, approximate=False)
    return None
