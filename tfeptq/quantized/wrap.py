"""The canonical float model with a quantizer on every weight and on every tensor of the file.

`tfeptq.plan.slots` says which quantizer each tensor gets; here the functional model is made. Where
parameters must be equal but are not, a second quantizer on the same tensor is an explicit
requantization.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import keras

from tfeptq.canonical import linear
from tfeptq.canonical.constant_layer import Constant
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.plan.sharing import Ranges
from tfeptq.plan.slots import EQUAL_INPUT_LAYERS, Plan, Slot, keeps_grid
from tfeptq.preparation.trace import output_structure
from tfeptq.quantized.averaging import QuantizedAveragePooling, QuantizedMean
from tfeptq.quantized.borders import Narrowing
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedPReLU, QuantizedWeights


@dataclasses.dataclass
class WrappedModel:
    """Input and output tensors of the quantized functional model.

    Attributes:
        outputs: in the structure of the canonical model's.
        sources: quantizer name -> tensors of the canonical model that its range must cover.
    """

    inputs: list[Any]
    outputs: Any
    sources: dict[str, list[Key]]


def wrap(
    model: keras.Model,
    *,
    weight_bits: Mapping[str, int],
    per_channel: Mapping[str, bool],
    requantization: Mapping[str, str],
    activation_bits: Mapping[str, int],
    ranges: Ranges | None = None,
    input_ranges: Mapping[str, tuple[float, float]] | None = None,
) -> WrappedModel:
    """Wraps a canonical model (see `tfeptq.preparation.prepare`).

    Args:
        weight_bits: width of every weighted layer, by name.
        per_channel: whether the layer's weights have one scale a channel, by name.
        requantization: how the target's kernel rounds its accumulator, by name of the layers with
            weights and the global means.
        activation_bits: width of the output of every layer that has one of its own, by name; see
            `tfeptq.plan.activations`.
        ranges, input_ranges: of the model's tensors, see `tfeptq.plan.slots.Plan`.
    """
    graph = LayerGraph.of(model)
    plan = Plan(graph, activation_bits, ranges, input_ranges)
    layers = {}
    counts = Counter(call.layer.name for call in graph.calls)
    for call in graph.calls:
        name = call.layer.name
        copy = type(call.layer).from_config(call.layer.get_config())
        if linear.is_weighted(call.layer):
            widths = weight_bits[name], per_channel[name], requantization[name]
            copy = QuantizedWeights(copy, *widths, counts[name])
        elif isinstance(call.layer, keras.layers.PReLU):
            copy = QuantizedPReLU(copy)
        elif isinstance(call.layer, keras.layers.GlobalAveragePooling2D):
            copy = QuantizedMean(copy, requantization[name])
        elif isinstance(call.layer, keras.layers.AveragePooling2D):
            copy = QuantizedAveragePooling(copy)
        layers[name] = copy
    builder = _Builder(model, graph, plan, layers)
    _copy_weights(model, layers)
    outputs: Any = [builder.tensors[key] for key in graph.outputs]
    structure = output_structure(model)
    if structure is not None:
        outputs = keras.tree.pack_sequence_as(structure, outputs)
    return WrappedModel(
        builder.inputs,
        outputs,
        {quantizer.name: slot.sources for slot, quantizer in builder.quantizers.items()},
    )


class _Builder:
    """Calls the layers and their quantizers in order.

    Attributes:
        inputs: Keras inputs in the model's order.
        tensors: Keras tensor of every tensor of the canonical model, quantized.
        quantizers: those in use.
    """

    def __init__(
        self,
        model: keras.Model,
        graph: LayerGraph,
        plan: Plan,
        layers: Mapping[str, keras.Layer],
    ) -> None:
        self._plan = plan
        self._copies: dict[tuple[Key, Slot], Any] = {}
        self._calls_so_far: Counter[keras.Layer] = Counter()
        self.quantizers: dict[Slot, ActivationQuantizer] = {}
        self._constants: set[Key] = set()
        self.tensors: dict[Key, Any] = {}
        self.inputs = [
            keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=key[0])
            for tensor, key in zip(model.inputs, graph.inputs, strict=True)
        ]
        for tensor, key in zip(self.inputs, graph.inputs, strict=True):
            self.tensors[key] = self._quantize(plan.slots[key], tensor)
        for call in graph.calls:
            self.tensors[call.output] = self._output(call, layers[call.layer.name])

    def _quantize(self, slot: Slot, tensor: Any) -> Any:
        if slot not in self.quantizers:
            kind = Narrowing if slot.narrows else ActivationQuantizer
            self.quantizers[slot] = kind(slot.bits, slot.fixed, name=slot.name)
        return self.quantizers[slot](tensor)

    def _output(self, call: Call, layer: keras.Layer) -> Any:
        if isinstance(layer, Constant):
            # Every reader takes the array itself, in the integers that its kernel needs.
            self._constants.add(call.output)
            return layer(self.tensors[call.inputs[0]])
        arguments = [self._argument(call, key) for key in call.inputs]
        output = layer(arguments if call.takes_list else arguments[0], **self._options(layer))
        slot = self._plan.slots.get(call.output)
        return output if slot is None or self._is_exact(call) else self._quantize(slot, output)

    def _options(self, layer: keras.Layer) -> dict[str, int]:
        """Which of its calls this is, for a shared layer that has to know."""
        if not isinstance(layer, QuantizedWeights) or layer.calls == 1:
            return {}
        self._calls_so_far[layer] += 1
        return {"call_index": self._calls_so_far[layer] - 1}

    def _argument(self, call: Call, key: Key) -> Any:
        """The tensor that the kernel of `call` reads: `key` itself, or a requantized copy."""
        tensor, slot, target = self.tensors[key], self._plan.slots.get(key), self._plan.target(call)
        is_constant = key in self._constants
        if slot is None or (slot is target and not is_constant):
            return tensor
        if isinstance(call.layer, EQUAL_INPUT_LAYERS):
            return self._quantize(target, tensor)
        if slot.dtype != target.dtype or self._plan.is_beyond_curve(call, key):
            slot = self._plan.border(key, target.dtype)
        elif not is_constant:
            return tensor
        if (key, slot) not in self._copies:
            self._copies[key, slot] = self._quantize(slot, tensor)
        return self._copies[key, slot]

    def _is_exact(self, call: Call) -> bool:
        """Whether the layer's result already lies on its quantizer's grid."""
        if keeps_grid(call.layer):
            return True
        layer, slots = call.layer, self._plan.slots
        same_slot = slots.get(call.inputs[0]) is slots[call.output]
        return isinstance(layer, keras.layers.ReLU) and same_slot and layer.max_value is None


def _copy_weights(model: keras.Model, layers: Mapping[str, keras.Layer]) -> None:
    for name, layer in layers.items():
        if isinstance(layer, keras.layers.Wrapper):
            layer.layer.set_weights(model.get_layer(name).get_weights())
        elif isinstance(layer, Constant):
            layer.set_weights(model.get_layer(name).get_weights())
