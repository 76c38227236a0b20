"""Calls of quantized layers as they run fastest where nothing is compiled around them."""

from __future__ import annotations

from typing import Any

from tfeptq.canonical.layer_graph import Call
from tfeptq.quantized.quantizers import ActivationQuantizer

#: Values of a tensor from which one kernel, which is compiled for its shape, is worth it: it spares
#: a dozen passes through memory.
_LARGE = 2**20


def quick_call(call: Call, arguments: list[Any]) -> Any:
    """What `call` makes of its inputs, outside of compiled functions; the same numbers."""
    if isinstance(call.layer, ActivationQuantizer) and _size(arguments[0]) >= _LARGE:
        return call.layer.without_gradients(arguments[0])
    return call(arguments)


def _size(tensor: Any) -> int:
    return int(tensor.shape.num_elements())
