"""The widths that the layers of a quantized model have, as it will be written."""

from __future__ import annotations

import keras

from tfeptq.canonical.layer_graph import Key
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedWeights
from tfeptq.quantized.written import Written

#: Of an input that nothing reads, which stays one of the file.
_UNREAD_BITS = 8


def bit_widths(model: keras.Model) -> dict[str, tuple[int | None, int]]:
    """Layer name -> (weight bits or None, bits of its output), inputs too, in execution order.

    A layer that is called several times has one width of its weights, but may have outputs of
    several: where, say, its calls feed ReLUs of 8 and of 5 bits. The widest is told.
    """
    written = Written.of(model)
    consumers = written.graph.consumers()

    def output_bits(key: Key) -> int:
        while key not in written.quantizers:
            if key not in consumers:
                return _UNREAD_BITS
            key = consumers[key][0].output
        return written.quantizers[key].bits

    result: dict[str, tuple[int | None, int]] = {
        key[0]: (None, output_bits(key)) for key in written.graph.inputs
    }
    for call in written.graph.calls:
        if not isinstance(call.layer, ActivationQuantizer):
            weights = call.layer.bits if isinstance(call.layer, QuantizedWeights) else None
            _, earlier = result.get(call.layer.name, (weights, 0))
            result[call.layer.name] = (weights, max(earlier, output_bits(call.output)))
    return result
