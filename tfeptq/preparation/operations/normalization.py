"""Statistics, and the normalizations of `keras.ops` that take them of the tensor itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfeptq.preparation import normalizations
from tfeptq.preparation.constants import array_of
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.merges import scale_and_shift
from tfeptq.preparation.nodes import Node
from tfeptq.preparation.operations.arguments import Handler
from tfeptq.preparation.operations.reductions import inner_axes
from tfeptq.preparation.tables import tabulated


def _normalized(function: Callable[..., Node]) -> Handler:
    """A normalization, then gains and offsets over the same axes, where there are any."""

    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
        node, *parameters = arguments
        axes = inner_axes(operation, config["axis"], node)
        epsilon = _epsilon(config["epsilon"])
        by_variance = {"by_variance": True} if config.get("rms_scaling") else {}
        result = function(node, operation.name, axes, epsilon, **by_variance)
        gain, offset = (*(_over(value, node, axes) for value in parameters), None, None)[:2]
        if gain is None and offset is None:
            return result
        return scale_and_shift(
            result,
            f"{operation.name}_gain",
            1.0 if gain is None else gain,
            0.0 if offset is None else offset,
        )

    return handler


def _epsilon(given: Any) -> float:
    return keras.config.epsilon() if given is None else float(given)


def _over(value: Any, node: Node, axes: tuple[int, ...]) -> np.ndarray | None:
    """A parameter over the normalized axes, in the rank of the tensor."""
    if value is None:
        return None
    shape = [size if axis in axes else 1 for axis, size in enumerate(node.shape)]
    return array_of(value).reshape(shape)


def _unit(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node = arguments[0]
    if config["order"] != 2:
        raise UnsupportedLayerError(
            operation, f"normalizes by the norm of order {config['order']}", "use order 2"
        )
    axes = inner_axes(operation, config["axis"], node)
    # Keras bounds the norm, not its square, from below.
    least = _epsilon(config["epsilon"]) ** 2
    return normalizations.unit_normalization(node, operation.name, axes, least)


def _moments(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> list[Node]:
    node = arguments[0]
    axes = inner_axes(operation, config["axes"], node)
    keepdims = bool(config["keepdims"])
    return list(normalizations.moments(node, operation.name, axes, keepdims=keepdims))


def _variance(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node = arguments[0]
    axes, keepdims = inner_axes(operation, config["axis"], node), bool(config["keepdims"])
    return normalizations.moments(node, operation.name, axes, keepdims=keepdims)[1]


def _deviation(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    variance = _variance(operation, config, arguments)
    return tabulated(variance, operation.name, "sqrt")


HANDLERS: dict[str, Handler] = {
    "LayerNorm": _normalized(normalizations.layer_normalization),
    "Moments": _moments,
    "Normalize": _unit,
    "RMSNorm": _normalized(normalizations.rms_normalization),
    "Std": _deviation,
    "Var": _variance,
}
