"""Which quantizer each tensor of the file gets, and which quantizers must be one.

A tensor has its own quantizer, its input's (where the kernel keeps parameters), a fixed one
(softmax), or one shared by all that must be equal (concat). A kernel computes in the integer type
of its output: where an input has the other type, a copy in the right one, a `border`, is read
instead, and all readers of that type share it. That is the cheapest place: 8-bit layers that read a
16-bit tensor stay 8-bit kernels, with the weights that those allow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import keras

from tfeptq import linear
from tfeptq.constant_layer import Constant
from tfeptq.layer_graph import Call, Key, LayerGraph
from tfeptq.names import legal_name, unique_name
from tfeptq.quantizers import activation_dtype, activation_range

#: Layers that move integers and leave them as they are.
EXACT_LAYERS = (
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping2D,
    keras.layers.MaxPooling2D,
)
#: Layers whose kernel computes in the input's scale and rounds back to it.
SAME_SCALE_LAYERS = (keras.layers.AveragePooling2D, keras.layers.UpSampling2D)
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
_FIXED_16 = (1 / 32768, 0)


def keeps_grid(layer: keras.Layer) -> bool:
    """Whether a layer's result lies on the grid of its (first) input."""
    if isinstance(layer, keras.layers.UpSampling2D):
        return layer.interpolation == "nearest"
    return isinstance(layer, EXACT_LAYERS + EQUAL_INPUT_LAYERS)


@dataclasses.dataclass(eq=False)
class Slot:
    """Parameters shared by one or more tensors; becomes one `ActivationQuantizer`.

    Attributes:
        name: of the quantizer; no other slot and no layer has it.
        bits: width of its codes.
        fixed: scale and zero point where the kernel demands them.
        sources: tensors of the canonical model that the range must cover.
        narrows: it makes the 8-bit copy of a 16-bit tensor.
    """

    name: str
    bits: int
    fixed: tuple[float, int] | None = None
    sources: list[Key] = dataclasses.field(default_factory=list)
    narrows: bool = False

    @property
    def dtype(self) -> str:
        return activation_dtype(self.bits)


class Topology:
    """Facts of a canonical model's graph that do not depend on widths."""

    def __init__(self, graph: LayerGraph) -> None:
        self.graph = graph
        self.producers = {call.output: call for call in graph.calls}
        self._consumers = graph.consumers()

    def fused_relu(self, call: Call) -> Call | None:
        """The ReLU that the kernel of `call` applies itself; its result is in no tensor then."""
        readers = self._consumers.get(call.output, [])
        fuses = (
            isinstance(call.layer, FUSING_LAYERS)
            and len(readers) == 1
            and isinstance(readers[0].layer, keras.layers.ReLU)
            and call.output not in self.graph.outputs
        )
        return readers[0] if fuses else None

    def owner(self, key: Key) -> Key:
        """The tensor whose quantizer a tensor has, past the layers that only move integers."""
        call = self.producers.get(key)
        while call is not None and self.is_tied(call):
            key = call.inputs[0]
            call = self.producers.get(key)
        return key

    def is_tied(self, call: Call) -> bool:
        """Whether the output has its input's quantizer: the layer only moves or clips integers."""
        if isinstance(call.layer, EXACT_LAYERS + SAME_SCALE_LAYERS):
            return True
        if not isinstance(call.layer, keras.layers.ReLU) or relu_cap(call.layer) is not None:
            return False
        producer = self.producers.get(call.inputs[0])
        return producer is None or self.fused_relu(producer) is None


class Plan:
    """Assigns a slot to every tensor that the file holds.

    Args:
        bits: layer name -> width of its output; see `tfeptq.precision.activations`.

    Attributes:
        slots: tensor -> its quantizer.
    """

    def __init__(self, graph: LayerGraph, bits: Mapping[str, int]) -> None:
        self._bits = bits
        self._topology = Topology(graph)
        self.slots: dict[Key, Slot] = {}
        self._borders: dict[tuple[Key, str], Slot] = {}
        # A layer of the user's may be named like anything that is made up here.
        self._names = {key[0] for key in graph.inputs} | {call.layer.name for call in graph.calls}
        for key in graph.inputs:
            self.slots[key] = Slot(self._name(key, "quantizer"), bits[key[0]], None, [key])
        for call in graph.calls:
            self._assign(call)

    def target(self, call: Call) -> Slot:
        """The quantizer in which the kernel of `call` writes."""
        relu = self._topology.fused_relu(call)
        return self.slots[(relu or call).output]

    def border(self, key: Key, dtype: str) -> Slot:
        """The quantizer of the copy of a tensor that kernels of another integer type read."""
        if (key, dtype) not in self._borders:
            bits = 16 if dtype == "int16" else 8
            # A constant is no 16-bit tensor of the file: it is written in either type.
            producer = self._topology.producers.get(key)
            is_constant = producer is not None and isinstance(producer.layer, Constant)
            self._borders[key, dtype] = Slot(
                self._name(key, f"to_{dtype}"),
                bits,
                None,
                [key],
                narrows=bits == 8 and not is_constant,
            )
        return self._borders[key, dtype]

    def _name(self, key: Key, role: str) -> str:
        """A free name for what belongs to a tensor; later calls of a layer are numbered."""
        tensor = key[0] if key[1] == 0 else f"{key[0]}_{key[1]}"
        return unique_name(legal_name(f"{tensor}_{role}"), self._names)

    def _assign(self, call: Call) -> None:
        if self._topology.fused_relu(call) is not None:
            return
        if self._topology.is_tied(call):
            self.slots[call.output] = self.slots[call.inputs[0]]
        elif isinstance(call.layer, EQUAL_INPUT_LAYERS):
            self.slots[call.output] = self._unite(call)
        else:
            bits = self._bits[call.layer.name]
            fixed = fixed_parameters(call.layer, bits)
            name = self._name(call.output, "quantizer")
            self.slots[call.output] = Slot(name, bits, fixed, [call.output])

    def _unite(self, call: Call) -> Slot:
        """One slot for all inputs; those with other or fixed parameters are requantized to it."""
        bits = self._bits[call.layer.name]
        slots = [self.slots[key] for key in call.inputs]
        if slots[0].bits == bits and all(slot is slots[0] for slot in slots):
            return slots[0]
        free = [slot for slot in slots if slot.fixed is None and slot.bits == bits]
        united = free[0] if free else Slot(self._name(call.output, "quantizer"), bits)
        for slot in slots:
            united.sources.extend(key for key in slot.sources if key not in united.sources)
        for key, slot in self.slots.items():
            if any(slot is other for other in free):
                self.slots[key] = united
        return united


def relu_cap(layer: keras.Layer) -> float | None:
    """Upper bound of a ReLU that is neither absent nor 6, which the file states by its range."""
    if isinstance(layer, keras.layers.ReLU) and layer.max_value not in (None, 6.0):
        return float(layer.max_value)
    return None


def has_fixed_parameters(layer: keras.Layer) -> bool:
    """Whether kernels demand one scale and zero point of the output: softmax, sigmoid, tanh."""
    return _curve(layer) in _FIXED_8


def fixed_parameters(layer: keras.Layer, bits: int) -> tuple[float, int] | None:
    """Scale and zero point that the kernel demands, or that state the bound of a capped ReLU."""
    if has_fixed_parameters(layer):
        return _FIXED_16 if bits == 16 else _FIXED_8[_curve(layer)]
    cap = relu_cap(layer)
    if cap is None:
        return None
    low, high = activation_range(bits)
    return (cap / high, 0) if bits == 16 else (cap / (high - low), low)


def _curve(layer: keras.Layer) -> str:
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    return layer.activation.__name__ if isinstance(layer, keras.layers.Activation) else ""
