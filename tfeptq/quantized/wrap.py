"""The canonical float model with a quantizer on every weight and on every tensor of the file.

The plan says which quantizer each tensor gets; here the functional model is made. Where parameters
must be equal but are not, a second quantizer on the same tensor is an explicit requantization.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import keras

from tfeptq.canonical.constant_layer import Constant
from tfeptq.canonical.layer_graph import Call, Key
from tfeptq.canonical.lookup_layer import Lookup
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.plan.tensors import Operand, Quantizer
from tfeptq.preparation.trace import output_structure
from tfeptq.quantized.averaging import QuantizedAveragePooling, QuantizedMean
from tfeptq.quantized.borders import Narrowing
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedPReLU, QuantizedWeights

#: Layers that compute otherwise than in floating point, beside those that accumulate.
_WRAPPERS = {
    keras.layers.PReLU: QuantizedPReLU,
    keras.layers.AveragePooling2D: QuantizedAveragePooling,
}


def wrap(plan: QuantizationPlan) -> tuple[Any, Any]:
    """Inputs and outputs of the quantized functional model.

    Its outputs are in the structure of the canonical model's, its quantizers named as in the plan.
    """
    layers: dict[str, keras.Layer] = {}
    counts = Counter(call.layer.name for call in plan.graph.calls)
    for call in plan.graph.calls:
        name = call.layer.name
        layers[name] = _quantized_copy(call.layer, plan, calls=counts[name])
    builder = _Builder(plan, layers)
    _copy_weights(plan.graph.layers, layers)
    outputs: Any = [builder.tensors[key] for key in plan.graph.outputs]
    structure = output_structure(plan.model)
    if structure is not None:
        outputs = keras.tree.pack_sequence_as(structure, outputs)
    elif len(outputs) == 1:
        # Keras gives a list of one back where a model is called on symbols.
        outputs = outputs[0]
    # As in outputs: Keras warns of one array where a list of one is expected.
    inputs = builder.inputs
    return inputs[0] if len(inputs) == 1 else inputs, outputs


def _quantized_copy(layer: keras.Layer, plan: QuantizationPlan, *, calls: int) -> keras.Layer:
    """A layer that computes what the kernel does, without its weights yet."""
    copy = type(layer).from_config(layer.get_config())
    if layer.name in plan.weights:
        held = plan.weights[layer.name]
        return QuantizedWeights(
            copy,
            held.bits,
            held.per_channel,
            held.requantization,
            calls,
            grid_name=held.grid,
        )
    if layer.name in plan.requantizations:
        return QuantizedMean(copy, plan.requantizations[layer.name])
    return _WRAPPERS[type(copy)](copy) if type(copy) in _WRAPPERS else copy


class _Builder:
    """Calls the layers and their quantizers in order.

    Attributes:
        inputs: Keras inputs in the model's order.
        tensors: Keras tensor of every tensor of the canonical model, quantized.
    """

    def __init__(self, plan: QuantizationPlan, layers: Mapping[str, keras.Layer]) -> None:
        self._plan = plan
        self._copies: dict[tuple[Key, str], Any] = {}
        self._calls_so_far: Counter[keras.Layer] = Counter()
        self._quantizers: dict[str, ActivationQuantizer] = {}
        self.tensors: dict[Key, Any] = {}
        self.inputs = [
            keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=key[0])
            for tensor, key in zip(plan.model.inputs, plan.graph.inputs, strict=True)
        ]
        for tensor, key in zip(self.inputs, plan.graph.inputs, strict=True):
            self.tensors[key] = self._quantize(plan.tensors[key].quantizer, tensor)
        for call in plan.graph.calls:
            self.tensors[call.output] = self._output(call, layers[call.layer.name])

    def _quantize(self, planned: Quantizer, tensor: Any) -> Any:
        if planned.name not in self._quantizers:
            kind = Narrowing if planned.narrows else ActivationQuantizer
            quantizer = kind(planned.bits, planned.fixed, name=planned.name)
            self._quantizers[planned.name] = quantizer
        return self._quantizers[planned.name](tensor)

    def _output(self, call: Call, layer: keras.Layer) -> Any:
        if isinstance(layer, Constant):
            # Every reader takes the array itself, in the integers that its kernel needs.
            return layer(self.tensors[call.inputs[0]])
        arguments = [self._argument(operand) for operand in self._plan.operands[call.output]]
        output = layer(arguments if call.takes_list else arguments[0], **self._options(layer))
        tensor = self._plan.tensors.get(call.output)
        if tensor is None or tensor.is_exact:
            return output
        return self._quantize(tensor.quantizer, output)

    def _options(self, layer: keras.Layer) -> dict[str, int]:
        """Which of its calls this is, for a shared layer that has to know."""
        if not isinstance(layer, QuantizedWeights) or layer.calls == 1:
            return {}
        self._calls_so_far[layer] += 1
        return {"call_index": self._calls_so_far[layer] - 1}

    def _argument(self, operand: Operand) -> Any:
        """The tensor that a kernel reads: as it is written, or a requantized copy."""
        tensor, quantizer = self.tensors[operand.key], operand.quantizer
        if quantizer is None or not operand.is_copy:
            return tensor
        if operand.is_private:
            return self._quantize(quantizer, tensor)
        copy = operand.key, quantizer.name
        if copy not in self._copies:
            self._copies[copy] = self._quantize(quantizer, tensor)
        return self._copies[copy]


def _copy_weights(given: Mapping[str, keras.Layer], layers: Mapping[str, keras.Layer]) -> None:
    for name, layer in layers.items():
        if isinstance(layer, keras.layers.Wrapper):
            layer.layer.set_weights(given[name].get_weights())
        elif isinstance(layer, Constant | Lookup):
            layer.set_weights(given[name].get_weights())
