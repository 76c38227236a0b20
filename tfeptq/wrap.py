"""The canonical float model with a quantizer on every weight and on every tensor of the file.

Two passes over the layer graph. `_plan` gives each tensor a quantizer: its own, its input's (where
the kernel keeps parameters), a fixed one (softmax), or one shared by all that must be equal
(concat). `_build` makes the functional model; where parameters must be equal but cannot, a second
quantizer on the same tensor becomes an explicit requantization.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfeptq import linear
from tfeptq.layer_graph import Call, Key, LayerGraph
from tfeptq.quantizers import ActivationQuantizer
from tfeptq.wrappers import QuantizedPReLU, QuantizedWeights

#: Layers that move integers and leave them as they are.
EXACT_LAYERS = (
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping2D,
    keras.layers.MaxPooling2D,
)
#: Layers whose kernel computes in the input's scale and rounds back to it.
SAME_SCALE_LAYERS = (keras.layers.AveragePooling2D,)
#: Layers whose inputs must share one scale; the output then has it too, exactly.
EQUAL_INPUT_LAYERS = (keras.layers.Concatenate, keras.layers.Maximum, keras.layers.Minimum)
#: Producers that can clamp their own output: a ReLU behind them costs nothing.
FUSING_LAYERS = (
    *linear.WEIGHTED_LAYERS,
    keras.layers.Add,
    keras.layers.Subtract,
    keras.layers.Multiply,
)
_FIXED_8 = {"softmax": (1 / 256, -128), "sigmoid": (1 / 256, -128), "tanh": (1 / 128, 0)}


@dataclasses.dataclass
class Slot:
    """Parameters shared by one or more tensors; becomes one `ActivationQuantizer`.

    Attributes:
        name: of the quantizer.
        fixed: scale and zero point where the kernel demands them.
        sources: tensors of the canonical model that the range must cover.
    """

    name: str
    fixed: tuple[float, int] | None = None
    sources: list[Key] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class WrappedModel:
    """Input and output tensors of the quantized functional model.

    Attributes:
        sources: quantizer name -> tensors of the canonical model that its range must cover.
    """

    inputs: list[Any]
    outputs: list[Any]
    sources: dict[str, list[Key]]


def wrap(
    model: keras.Model,
    *,
    weight_bits: Mapping[str, int],
    per_channel: Mapping[str, bool],
    requantization: Mapping[str, str],
    activation_bits: int,
) -> WrappedModel:
    """Wraps a canonical model (see `tfeptq.graph.prepare`).

    Args:
        weight_bits: width of every weighted layer, by name.
        per_channel: whether the layer's weights have one scale a channel, by name.
        requantization: how the target's kernel rounds its accumulator, by layer name.
        activation_bits: 8 or 16.
    """
    graph = LayerGraph.of(model)
    slots = _Plan(graph, activation_bits).slots
    quantizers: dict[str, ActivationQuantizer] = {}

    def quantize(slot: Slot, tensor: Any) -> Any:
        if slot.name not in quantizers:
            quantizers[slot.name] = ActivationQuantizer(activation_bits, slot.fixed, name=slot.name)
        return quantizers[slot.name](tensor)

    layers = {}
    for call in graph.calls:
        name = call.layer.name
        copy = type(call.layer).from_config(call.layer.get_config())
        if linear.is_weighted(call.layer):
            copy = QuantizedWeights(
                copy, weight_bits[name], per_channel[name], requantization[name]
            )
        elif isinstance(call.layer, keras.layers.PReLU):
            copy = QuantizedPReLU(copy)
        layers[name] = copy
    inputs, tensors = _build(model, graph, slots, layers, quantize)
    _copy_weights(model, layers)
    used = {slot.name: slot.sources for slot in slots.values() if slot.name in quantizers}
    return WrappedModel(inputs, [tensors[key] for key in graph.outputs], used)


def relu_cap(layer: keras.Layer) -> float | None:
    """Upper bound of a ReLU that is neither absent nor 6, which the file states by its range."""
    if isinstance(layer, keras.layers.ReLU) and layer.max_value not in (None, 6.0):
        return float(layer.max_value)
    return None


class _Plan:
    """Assigns a slot to every tensor that the file holds."""

    def __init__(self, graph: LayerGraph, bits: int) -> None:
        self._bits = bits
        self._graph = graph
        self._consumers = graph.consumers()
        self.slots: dict[Key, Slot] = {}
        for key in graph.inputs:
            self._own(key)
        for call in graph.calls:
            self._assign(call)

    def _assign(self, call: Call) -> None:
        layer = call.layer
        if self._stays_in_kernel(call):
            return
        if isinstance(layer, EXACT_LAYERS + SAME_SCALE_LAYERS + (keras.layers.UpSampling2D,)):
            self.slots[call.output] = self.slots[call.inputs[0]]
        elif isinstance(layer, EQUAL_INPUT_LAYERS):
            self.slots[call.output] = self._unite(call)
        elif isinstance(layer, keras.layers.ReLU) and relu_cap(layer) is None:
            if call.inputs[0] in self.slots:
                self.slots[call.output] = self.slots[call.inputs[0]]
            else:
                self._own(call.output)
        else:
            self._own(call.output, _fixed_parameters(layer, self._bits))

    def _stays_in_kernel(self, call: Call) -> bool:
        """True for a pre-activation whose only reader is a ReLU that the kernel can apply."""
        readers = self._consumers.get(call.output, [])
        return (
            isinstance(call.layer, FUSING_LAYERS)
            and len(readers) == 1
            and isinstance(readers[0].layer, keras.layers.ReLU)
            and call.output not in self._graph.outputs
        )

    def _own(self, key: Key, fixed: tuple[float, int] | None = None) -> None:
        suffix = "" if key[1] == 0 else f"_{key[1]}"
        self.slots[key] = Slot(f"{key[0]}{suffix}_quantizer", fixed, [key])

    def _unite(self, call: Call) -> Slot:
        """One slot for all inputs; those with fixed parameters will be requantized to it."""
        slots = [self.slots[key] for key in call.inputs]
        if all(slot is slots[0] for slot in slots):
            return slots[0]
        free = [slot for slot in slots if slot.fixed is None]
        united = free[0] if free else Slot(f"{call.output[0]}_quantizer")
        for slot in slots:
            united.sources.extend(key for key in slot.sources if key not in united.sources)
        for key, slot in self.slots.items():
            if any(slot is other for other in free):
                self.slots[key] = united
        return united


def _fixed_parameters(layer: keras.Layer, bits: int) -> tuple[float, int] | None:
    if (cap := relu_cap(layer)) is not None:
        return (cap / 255, -128) if bits == 8 else (cap / 32767, 0)
    name = "softmax" if isinstance(layer, keras.layers.Softmax) else ""
    if isinstance(layer, keras.layers.Activation):
        name = layer.activation.__name__
    if name not in _FIXED_8:
        return None
    return _FIXED_8[name] if bits == 8 else (1 / 32768, 0)


def _build(
    model: keras.Model,
    graph: LayerGraph,
    slots: Mapping[Key, Slot],
    layers: Mapping[str, keras.Layer],
    quantize: Callable[[Slot, Any], Any],
) -> tuple[list[Any], dict[Key, Any]]:
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=key[0])
        for tensor, key in zip(model.inputs, graph.inputs, strict=True)
    ]
    tensors = {
        key: quantize(slots[key], tensor) for key, tensor in zip(graph.inputs, inputs, strict=True)
    }
    for call in graph.calls:
        arguments = [tensors[key] for key in call.inputs]
        if isinstance(call.layer, EQUAL_INPUT_LAYERS):
            target = slots[call.output]
            arguments = [
                tensor if slots[key] is target else quantize(target, tensor)
                for key, tensor in zip(call.inputs, arguments, strict=True)
            ]
        output = layers[call.layer.name](arguments if call.takes_list else arguments[0])
        if call.output in slots and not _is_exact(call, slots):
            output = quantize(slots[call.output], output)
        tensors[call.output] = output
    return inputs, tensors


def _copy_weights(model: keras.Model, layers: Mapping[str, keras.Layer]) -> None:
    for name, layer in layers.items():
        if isinstance(layer, keras.layers.Wrapper):
            layer.layer.set_weights(model.get_layer(name).get_weights())


def _is_exact(call: Call, slots: Mapping[Key, Slot]) -> bool:
    """Whether the layer's result already lies on its quantizer's grid."""
    layer = call.layer
    if isinstance(layer, EXACT_LAYERS + EQUAL_INPUT_LAYERS):
        return True
    if isinstance(layer, keras.layers.UpSampling2D):
        return layer.interpolation == "nearest"
    same_slot = call.inputs[0] in slots and slots[call.inputs[0]] is slots[call.output]
    return isinstance(layer, keras.layers.ReLU) and same_slot and layer.max_value is None
