"""Functions of one number that no operator of a target may have, by their names in `Table`.

A kernel of int8 has 256 inputs: whatever a function is, a table of its results is exact. Inputs
beyond where a function is defined are brought to its edge, as a scale's steps may lie there where
no value of the model does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keras import activations, ops

Function = Callable[..., Any]

#: Smallest divisor and argument of a logarithm; both in float32's reach, and its powers as well.
_LEAST = 1e-12


def _of_ops(name: str) -> Function:
    return lambda x, **settings: getattr(ops, name)(x, **settings)


def _within(function: Function, low: float, high: float | None = None) -> Function:
    """A function that takes the nearest number of its domain."""

    def bounded(x: Any, **settings: Any) -> Any:
        x = ops.maximum(x, low)
        return function(x if high is None else ops.minimum(x, high), **settings)

    return bounded


def _not_zero(x: Any) -> Any:
    return ops.where(ops.abs(x) < _LEAST, _LEAST, x)


def _power(x: Any, exponent: float) -> Any:
    if exponent == int(exponent):
        return ops.power(x if exponent >= 0 else _not_zero(x), exponent)
    return ops.power(ops.maximum(x, 0.0 if exponent > 0 else _LEAST), exponent)


def _greater(x: Any, bound: float) -> Any:
    return ops.cast(x > bound, x.dtype)


def _at_least(x: Any, bound: float) -> Any:
    return ops.cast(x >= bound, x.dtype)


def _equal(x: Any, value: float) -> Any:
    return ops.cast(ops.equal(x, value), x.dtype)


def _threshold(x: Any, threshold: float, default_value: float) -> Any:
    return ops.where(x > threshold, x, default_value)


def _relu(x: Any, negative_slope: float, max_value: float | None, threshold: float) -> Any:
    return activations.relu(
        x, negative_slope=negative_slope, max_value=max_value, threshold=threshold
    )


#: Functions of all numbers: those that never fall, or never rise, and the others.
_STEADY = (
    "arcsinh",
    "arctan",
    "ceil",
    "celu",
    "elu",
    "erf",
    "exp",
    "expm1",
    "floor",
    "hard_shrink",
    "log_sigmoid",
    "round",
    "selu",
    "sign",
    "sinh",
    "soft_shrink",
    "softplus",
    "softsign",
    "sparse_plus",
    "sparse_sigmoid",
    "squareplus",
    "tanh_shrink",
    "trunc",
)
_TURNING = ("cos", "cosh", "hard_silu", "silu", "sin", "tan")
#: Name -> function of a tensor and of settings.
FUNCTIONS: Mapping[str, Function] = {
    **{name: _of_ops(name) for name in sorted((*_STEADY, *_TURNING))},
    **{name: _within(_of_ops(name), _LEAST) for name in ("log", "log2", "log10", "rsqrt")},
    "sqrt": _within(_of_ops("sqrt"), 0.0),
    "log1p": _within(_of_ops("log1p"), -1.0 + 1e-6),
    "arcsin": _within(_of_ops("arcsin"), -1.0, 1.0),
    "arccos": _within(_of_ops("arccos"), -1.0, 1.0),
    "arccosh": _within(_of_ops("arccosh"), 1.0),
    "arctanh": _within(_of_ops("arctanh"), -1.0 + 1e-6, 1.0 - 1e-6),
    "reciprocal": lambda x: ops.reciprocal(_not_zero(x)),
    "power": _power,
    "exp2": lambda x: ops.power(2.0, x),
    "gelu": lambda x: ops.gelu(x, approximate=False),
    "gelu_tanh": lambda x: ops.gelu(x, approximate=True),
    "mish": lambda x: x * ops.tanh(ops.softplus(x)),
    "relu": _relu,
    "threshold": _threshold,
    "greater": _greater,
    "at_least": _at_least,
    "equal": _equal,
    "affine": lambda x, scale, offset: x * scale + offset,
    "mod": lambda x, divisor: ops.mod(x, divisor),
    "floor_divide": lambda x, divisor: ops.floor_divide(x, divisor),
}
#: Names of functions that never fall, or never rise, whatever their settings.
MONOTONE = frozenset(
    {
        *_STEADY,
        "affine",
        "arccos",
        "arccosh",
        "arcsin",
        "arctanh",
        "at_least",
        "exp2",
        "floor_divide",
        "greater",
        "log",
        "log10",
        "log1p",
        "log2",
        "rsqrt",
        "sqrt",
    }
)
