"""Which quantizer each tensor of the file gets, and which quantizers must be one.

A tensor has its own quantizer, its input's (where the kernel keeps parameters), a fixed one
(softmax), or one shared by all that must be equal (concat; see `tfeptq.plan.sharing`). A kernel
computes in the integer type of its output: where an input has the other type, a copy in the right
one, a `border`, is read instead, and all readers of that type share it. That is the cheapest place:
8-bit layers that read a 16-bit tensor stay 8-bit kernels, with the weights that those allow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping
from types import MappingProxyType

from tfeptq.canonical.constant_layer import Constant
from tfeptq.canonical.integer_types import activation_dtype
from tfeptq.canonical.layer_graph import Call, Key
from tfeptq.canonical.names import legal_name, unique_name
from tfeptq.canonical.primitives import primitive_of
from tfeptq.canonical.topology import (
    Topology,
    averages,
    cuts_nothing,
    is_relu,
    joins,
    keeps_grid,
)
from tfeptq.plan.input_ranges import fixed_by_range
from tfeptq.plan.sharing import Ranges, extent, shared
from tfeptq.plan.tensors import Operand, Quantizer, TensorPlan, TensorPlans, fixed_parameters

#: Ranges of a sigmoid's or tanh's input beyond this get a copy of their own: steps of two.
_CURVE_EXTENT = 510.0


def tensor_plans(
    topology: Topology,
    bits: Mapping[str, int],
    ranges: Ranges | None = None,
    input_ranges: Mapping[str, tuple[float, float]] | None = None,
) -> TensorPlans:
    """Gives every tensor that the file holds its quantizer, and every kernel what it reads.

    Args:
        bits: layer name -> width of its output; see `tfeptq.plan.activations`.
        ranges: of the canonical model's tensors; None: not known, as before there are samples.
            Then whatever can share a scale does, which takes the fewest operators.
        input_ranges: input name -> the range that its quantizer is fixed to.
    """
    assignment = _Assignment(topology, bits, ranges, input_ranges or {})
    reads = {
        call.output: [assignment.read(call, key) for key in call.inputs]
        for call in topology.graph.calls
        if not isinstance(call.layer, Constant)
    }
    made: dict[_Slot, Quantizer] = {}

    def quantizer(slot: _Slot) -> Quantizer:
        if slot not in made:
            made[slot] = slot.decided(topology)
        return made[slot]

    tensors = {
        key: TensorPlan(quantizer(slot), assignment.origin(key), assignment.is_exact(key))
        for key, slot in assignment.slots.items()
    }
    operands = {
        output: tuple(
            dataclasses.replace(operand, quantizer=None if slot is None else quantizer(slot))
            for operand, slot in found
        )
        for output, found in reads.items()
    }
    return TensorPlans(MappingProxyType(tensors), MappingProxyType(operands))


@dataclasses.dataclass(eq=False)
class _Slot:
    """A quantizer while it is not decided yet which tensors share it.

    Attributes:
        keys: the tensors that have it.
    """

    name: str
    bits: int
    fixed: tuple[float, int] | None = None
    sources: list[Key] = dataclasses.field(default_factory=list)
    narrows: bool = False
    keys: list[Key] = dataclasses.field(default_factory=list)

    @property
    def dtype(self) -> str:
        return activation_dtype(self.bits)

    def decided(self, topology: Topology) -> Quantizer:
        read = _each(topology.read, self.sources)
        chosen = tuple(key for key in _each(topology.chosen, self.sources) if key not in read)
        sources = tuple(self.sources)
        return Quantizer(self.name, self.bits, self.fixed, sources, read, chosen, self.narrows)


class _Assignment:
    """Walks the calls in order; see `tensor_plans`.

    Attributes:
        slots: tensor -> its quantizer.
    """

    def __init__(
        self,
        topology: Topology,
        bits: Mapping[str, int],
        ranges: Ranges | None,
        input_ranges: Mapping[str, tuple[float, float]],
    ) -> None:
        graph = topology.graph
        self._bits = bits
        self._seen = ranges or {}
        # A scale has to hold what is read.
        self._ranges = None if ranges is None else _ranges_of_read(topology, ranges)
        self._topology = topology
        self.slots: dict[Key, _Slot] = {}
        self._order = {key: n for n, key in enumerate([*graph.inputs, *topology.producers])}
        self._borders: dict[tuple[Key, str], _Slot] = {}
        #: Place in every step through time -> the quantizer of what is computed there.
        self._through_time: dict[Hashable, _Slot] = {}
        # A layer of the user's may be named like anything that is made up here.
        self._names = {key[0] for key in graph.inputs} | {call.layer.name for call in graph.calls}
        for key in graph.inputs:
            bounds = input_ranges.get(key[0])
            fixed = None if bounds is None else fixed_by_range(bounds, bits[key[0]])
            fixed = (1.0, 0) if topology.is_index(key) else fixed
            self._give(key, _Slot(self._name(key, "quantizer"), bits[key[0]], fixed, [key]))
        for call in graph.calls:
            self._assign(call)
        for output, state in topology.states.items():
            self._feed_back(output, state)

    def read(self, call: Call, key: Key) -> tuple[Operand, _Slot | None]:
        """How the kernel of `call` reads a tensor, and the quantizer in whose scale."""
        slot, target = self.slots.get(key), self.slots[self._topology.result(call)]
        is_constant = self._topology.is_constant(key)
        is_index = self._topology.is_index(key) or self._topology.makes_indices(call)
        if slot is None or is_index or (slot is target and not is_constant):
            return Operand(key, None), slot
        if joins(call.layer):
            return Operand(key, None, is_copy=True, is_private=True), target
        if slot.dtype != target.dtype or self._is_beyond_curve(call, key):
            return Operand(key, None, is_copy=True), self._border(key, target.dtype)
        return Operand(key, None, is_copy=is_constant), slot

    def origin(self, key: Key) -> str:
        """See `TensorPlan`."""
        call = self._topology.producers.get(key)
        if call is not None and self._topology.is_tied(call):
            return "tied"
        if self.slots[key].fixed is not None:
            return "fixed"
        return "shared" if len(self._owners(self.slots[key])) > 1 else "own"

    def is_exact(self, key: Key) -> bool:
        """See `TensorPlan`."""
        call = self._topology.producers.get(key)
        if call is None or keeps_grid(call.layer):
            return call is not None
        same_slot = self.slots.get(call.inputs[0]) is self.slots[key]
        return is_relu(call.layer) and same_slot and cuts_nothing(call.layer)

    def _border(self, key: Key, dtype: str) -> _Slot:
        """The quantizer of the copy of a tensor that kernels of another integer type read."""
        if (key, dtype) not in self._borders:
            bits = 16 if dtype == "int16" else 8
            # A constant is no 16-bit tensor of the file: it is written in either type.
            is_constant = self._topology.is_constant(key)
            self._borders[key, dtype] = _Slot(
                self._name(key, f"to_{dtype}"),
                bits,
                None,
                [key],
                narrows=bits == 8 and not is_constant and self.slots[key].bits == 16,
            )
        return self._borders[key, dtype]

    def _is_beyond_curve(self, call: Call, key: Key) -> bool:
        """Whether a sigmoid or tanh reads a tensor in steps so coarse that TFLM cannot count them.

        Then it reads a copy that ends where it is flat; others may need the whole range.
        """
        if self._ranges is None or not primitive_of(call.layer).flat_beyond:
            return False
        slot = self.slots[key]
        found = [self._ranges[source] for source in slot.sources if source in self._ranges]
        return slot.bits != 16 and extent(found, 8) > _CURVE_EXTENT

    def _name(self, key: Key, role: str) -> str:
        """A free name for what belongs to a tensor; later calls of a layer are numbered."""
        tensor = key[0] if key[1] == 0 else f"{key[0]}_{key[1]}"
        return unique_name(legal_name(f"{tensor}_{role}"), self._names)

    def _assign(self, call: Call) -> None:
        if self._topology.fused_relu(call) is not None:
            return
        place = self._topology.place_in_time(call)
        if self._topology.is_tied(call):
            self._give(call.output, self.slots[call.inputs[0]])
        elif joins(call.layer):
            self._give(call.output, self._unite(call))
        elif place in self._through_time:
            slot = self._through_time[place]
            slot.sources.append(call.output)
            self._give(call.output, slot)
        else:
            bits = self._bits[call.layer.name]
            _, reached = self._seen.get(call.output, (None, None))
            fixed = fixed_parameters(call.layer, bits, reached)
            name = self._name(call.output, "quantizer")
            self._give(call.output, _Slot(name, bits, fixed, [call.output]))
            if place is not None:
                self._through_time[place] = self.slots[call.output]

    def _unite(self, call: Call) -> _Slot:
        """The slot of a kernel that copies integers; inputs with another are requantized to it."""
        bits = self._bits[call.layer.name]
        slots = list(dict.fromkeys(self.slots[key] for key in call.inputs))
        first = slots[0]
        if first.bits == bits and (len(slots) == 1 or all(_same_fixed(first, s) for s in slots)):
            return first
        joined = self._joined(call, [s for s in slots if s.fixed is None and s.bits == bits])
        united = joined[0] if joined else _Slot(self._name(call.output, "quantizer"), bits)
        united.sources = self._united_sources(call, joined)
        for slot in joined:
            self._replace(slot, united)
        return united

    def _give(self, key: Key, slot: _Slot) -> None:
        self.slots[key] = slot
        slot.keys.append(key)

    def _replace(self, old: _Slot, new: _Slot) -> None:
        """Gives the tensors of one quantizer another; they stay in the order of the network."""
        if old is new:
            return
        for key in old.keys:
            self._give(key, new)
        new.keys.sort(key=self._order.__getitem__)

    def _feed_back(self, output: Key, state: Key) -> None:
        """Gives a state that the caller feeds back one quantizer as output and as input."""
        made, read = self.slots[output], self.slots[state]
        if made is read:
            return
        if made.fixed is not None and read.fixed is not None and made.fixed != read.fixed:
            raise ValueError(
                f"layer {self._topology.owner(output)[0]!r} fixes scale and zero point of its "
                f"result to {made.fixed}, input_range those of {state[0]!r} to {read.fixed}, but "
                "one is the other in the next step; leave that input out of input_range"
            )
        made.fixed = made.fixed or read.fixed
        made.sources = list(dict.fromkeys([*made.sources, *read.sources]))
        self._replace(read, made)

    def _joined(self, call: Call, candidates: list[_Slot]) -> list[_Slot]:
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
        selects = not primitive_of(call.layer).copies

        def passes_on(reader: Call, key: Key) -> bool:
            if joins(reader.layer):
                # What comes later in the graph has no slot yet.
                made = self.slots.get(reader.output)
                return made is not None and made is self.slots.get(key)
            return self._topology.is_tied(reader) and not (selects and averages(reader.layer))

        # In stacked joins many ways lead to a tensor: each is looked at once.
        passed = {key: None}
        for each in (waiting := [key]):
            readers = [r for r in self._topology.consumers.get(each, ()) if r is not call]
            if each in self._topology.graph.outputs or not all(passes_on(r, each) for r in readers):
                return True
            waiting += [r.output for r in readers if r.output not in passed]
            passed.update(dict.fromkeys(waiting))
        return False

    def _owners(self, slot: _Slot) -> list[Key]:
        """The tensors that a quantizer serves, without those that only move their integers."""
        return list(dict.fromkeys(map(self._topology.owner, slot.keys)))

    def _united_sources(self, call: Call, joined: list[_Slot]) -> list[Key]:
        """Tensors whose values the range of a shared slot must cover.

        What a maximum or minimum does not let through may be clipped in its inputs, if it reads
        them alone.
        """
        if primitive_of(call.layer).copies:
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


def _each(found: Callable[[Key], Iterable[Key]], keys: Iterable[Key]) -> tuple[Key, ...]:
    return tuple(dict.fromkeys(result for key in keys for result in found(key)))


def _ranges_of_read(topology: Topology, ranges: Ranges) -> Ranges:
    """Tensor -> least and largest of its values that are read in the end."""
    result = {}
    for key in ranges:
        found = [ranges[read] for read in topology.read(key) if read in ranges] or [ranges[key]]
        result[key] = min(low for low, _ in found), max(high for _, high in found)
    return result


def _same_fixed(left: _Slot, right: _Slot) -> bool:
    return (left.fixed, left.bits) == (right.fixed, right.bits) and left.fixed is not None
