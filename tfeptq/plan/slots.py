"""Which quantizer each tensor of the file gets, and which quantizers must be one.

A tensor has its own quantizer, its input's (where the kernel keeps parameters), a fixed one
(softmax), or one shared by all that must be equal (concat; see `tfeptq.plan.sharing`). A kernel
computes in the integer type of its output: where an input has the other type, a copy in the right
one, a `border`, is read instead, and all readers of that type share it. That is the cheapest place:
8-bit layers that read a 16-bit tensor stay 8-bit kernels, with the weights that those allow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import keras

from tfeptq.canonical import linear
from tfeptq.canonical.constant_layer import Constant
from tfeptq.canonical.integer_types import activation_dtype, activation_range
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.canonical.names import legal_name, unique_name
from tfeptq.plan.input_ranges import fixed_by_range
from tfeptq.plan.sharing import Ranges, extent, shared

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


#: Ranges of a sigmoid's or tanh's input beyond this get a copy of their own: steps of two.
_CURVE_EXTENT = 510.0


def keeps_grid(layer: keras.Layer) -> bool:
    """Whether a layer's result lies on the grid of its (first) input."""
    if isinstance(layer, keras.layers.UpSampling2D):
        return layer.interpolation == "nearest"
    return isinstance(layer, EXACT_LAYERS + EQUAL_INPUT_LAYERS)


def averages(layer: keras.Layer) -> bool:
    """Whether a layer that keeps its input's scale computes new values between the old ones."""
    return isinstance(layer, SAME_SCALE_LAYERS) and not keeps_grid(layer)


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
        self.consumers = graph.consumers()

    def fused_relu(self, call: Call) -> Call | None:
        """The ReLU that the kernel of `call` applies itself; its result is in no tensor then."""
        readers = self.consumers.get(call.output, [])
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

    def written(self) -> list[Key]:
        """Every tensor of the file, in order: what no kernel keeps to itself."""
        made = [call.output for call in self.graph.calls if self.fused_relu(call) is None]
        return [*self.graph.inputs, *made]


class Plan:
    """Assigns a slot to every tensor that the file holds.

    Args:
        bits: layer name -> width of its output; see `tfeptq.plan.activations`.
        ranges: of the canonical model's tensors; None: not known, as before there are samples.
            Then whatever can share a scale does, which takes the fewest operators.
        input_ranges: input name -> the range that its quantizer is fixed to.

    Attributes:
        slots: tensor -> its quantizer.
    """

    def __init__(
        self,
        graph: LayerGraph,
        bits: Mapping[str, int],
        ranges: Ranges | None = None,
        input_ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self._bits = bits
        self._ranges = ranges
        self._topology = Topology(graph)
        self.slots: dict[Key, Slot] = {}
        self._borders: dict[tuple[Key, str], Slot] = {}
        # A layer of the user's may be named like anything that is made up here.
        self._names = {key[0] for key in graph.inputs} | {call.layer.name for call in graph.calls}
        for key in graph.inputs:
            bounds = (input_ranges or {}).get(key[0])
            fixed = None if bounds is None else fixed_by_range(bounds, bits[key[0]])
            self.slots[key] = Slot(self._name(key, "quantizer"), bits[key[0]], fixed, [key])
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
                narrows=bits == 8 and not is_constant and self.slots[key].bits == 16,
            )
        return self._borders[key, dtype]

    def is_beyond_curve(self, call: Call, key: Key) -> bool:
        """Whether a sigmoid or tanh reads a tensor in steps so coarse that TFLM cannot count them.

        Then it reads a copy that ends where it is flat; others may need the whole range.
        """
        if self._ranges is None or _curve(call.layer) not in ("sigmoid", "tanh"):
            return False
        slot = self.slots[key]
        found = [self._ranges[source] for source in slot.sources if source in self._ranges]
        return slot.bits != 16 and extent(found, 8) > _CURVE_EXTENT

    def copies(self, call: Call) -> list[Key]:
        """Inputs of a kernel that copies integers which are requantized for it alone."""
        if not isinstance(call.layer, EQUAL_INPUT_LAYERS):
            return []
        made = self.slots[call.output]
        return [
            key
            for key in call.inputs
            if self.slots[key] is not made and not _same_fixed(self.slots[key], made)
        ]

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
        """The slot of a kernel that copies integers; inputs with another are requantized to it."""
        bits = self._bits[call.layer.name]
        slots = list(dict.fromkeys(self.slots[key] for key in call.inputs))
        first = slots[0]
        if first.bits == bits and (len(slots) == 1 or all(_same_fixed(first, s) for s in slots)):
            return first
        joined = self._joined(call, [s for s in slots if s.fixed is None and s.bits == bits])
        united = joined[0] if joined else Slot(self._name(call.output, "quantizer"), bits)
        united.sources = self._united_sources(call, joined)
        for key, slot in self.slots.items():
            if slot in joined:
                self.slots[key] = united
        return united

    def _joined(self, call: Call, candidates: list[Slot]) -> list[Slot]:
        """Those candidates whose tensors all get the scale of the kernel's result."""
        indices = shared(
            [self._owners(slot) for slot in candidates],
            call.output,
            self._ranges,
            bits=self._bits[call.layer.name],
            is_read_elsewhere=lambda key: self._is_read_elsewhere(key, call),
        )
        return [candidates[index] for index in indices]

    def _is_read_elsewhere(self, key: Key, call: Call) -> bool:
        """Whether anything but `call` reads a tensor, or what has its quantizer because of it.

        An average in front of a maximum or minimum counts as another reader: it needs what the
        maximum does not let through.
        """
        selects = not isinstance(call.layer, keras.layers.Concatenate)

        def passes_on(reader: Call) -> bool:
            if isinstance(reader.layer, EQUAL_INPUT_LAYERS):
                # What comes later in the graph has no slot yet.
                made = self.slots.get(reader.output)
                return made is not None and made is self.slots.get(key)
            return self._topology.is_tied(reader) and not (selects and averages(reader.layer))

        return key in self._topology.graph.outputs or any(
            not passes_on(reader) or self._is_read_elsewhere(reader.output, call)
            for reader in self._topology.consumers.get(key, ())
            if reader is not call
        )

    def _owners(self, slot: Slot) -> list[Key]:
        """The tensors that a quantizer serves, without those that only move their integers."""
        keys = (self._topology.owner(key) for key, other in self.slots.items() if other is slot)
        return list(dict.fromkeys(keys))

    def _united_sources(self, call: Call, joined: list[Slot]) -> list[Key]:
        """Tensors whose values the range of a shared slot must cover.

        What a maximum or minimum does not let through may be clipped in its inputs, if it reads
        them alone.
        """
        if isinstance(call.layer, keras.layers.Concatenate):
            inputs = ((key, self.slots[key]) for key in call.inputs)
            sources = [slot.sources if slot in joined else [key] for key, slot in inputs]
        else:
            public = [
                slot.sources
                for slot in joined
                if any(self._is_read_elsewhere(key, call) for key in self._owners(slot))
            ]
            sources = [[call.output], *public]
        return list(dict.fromkeys(source for keys in sources for source in keys))


def _same_fixed(left: Slot, right: Slot) -> bool:
    return (left.fixed, left.bits) == (right.fixed, right.bits) and left.fixed is not None


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
