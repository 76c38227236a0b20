"""The activation width of every layer: that of its output tensor.

- A ReLU that its producer's kernel applies makes one tensor with it; either name will do.
- Layers that only move integers (reshape, pad, pool, resize, a ReLU of a tensor that is written
  anyway) have no width of their own, but their input's.
- Concatenate, Maximum and Minimum, left out of a mapping, keep the width of inputs that agree.
- A kernel computes in the integer type of its output, int16 for 16 bits, otherwise int8. Inputs of
  the other type are requantized in front of it, once for all its readers of that type: 8-bit layers
  stay 8-bit kernels where they read a 16-bit tensor. So 16 bits pay where neighbours have them too.
- Softmax, sigmoid and tanh, whose kernels fix their results' codes, have 8 bits or 16.
- One width below 8 for all leaves the model's inputs, outputs and logits at 8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import keras

from tfeptq.canonical import linear
from tfeptq.canonical.integer_types import INDEX_BITS, activation_dtype
from tfeptq.canonical.layer_graph import Call, Key
from tfeptq.canonical.logits import logit_keys
from tfeptq.canonical.names import by_legal_name
from tfeptq.canonical.primitives import primitive_of
from tfeptq.canonical.topology import Topology, joins
from tfeptq.plan.layer_names import refuse_unknown
from tfeptq.plan.tensors import has_fixed_parameters
from tflite_export import targets


def activation_widths(
    model: keras.Model, topology: Topology, asked: int | Mapping[str, int], target: str
) -> dict[str, int]:
    """Layer name -> width of its output, of every layer that has one of its own, inputs too.

    Args:
        asked: one width for all, or widths by layer name.

    Raises:
        ValueError: an unknown layer name, a layer that cannot have the width given to it, or one
            that the target does not execute at 16 bits.
    """
    resolver = _Resolver(model, topology, asked)
    _refuse_missing(resolver, target)
    return resolver.by_layer


def boundary_layers(model: keras.Model, topology: Topology) -> set[str]:
    """Layers that compute the model's inputs, outputs and logits."""
    graph = topology.graph
    keys = (*graph.inputs, *graph.outputs, *logit_keys(model))
    return {topology.owner(key)[0] for key in keys}


class _Resolver:
    """Walks the calls in order.

    Attributes:
        by_layer: layer name -> width, inputs included, tied layers left out.
    """

    def __init__(
        self, model: keras.Model, topology: Topology, asked: int | Mapping[str, int]
    ) -> None:
        graph = topology.graph
        self._topology = topology
        self._default = 8 if isinstance(asked, Mapping) else asked
        self._wide = boundary_layers(model, self._topology) if self._default < 8 else set()
        self._bits: dict[Key, int] = {}
        self.by_layer: dict[str, int] = {}
        names = [*(name for name, _ in graph.inputs), *(call.layer.name for call in graph.calls)]
        self._given = by_legal_name(asked, names) if isinstance(asked, Mapping) else {}
        refuse_unknown("activation_bits", self._given, names, "layers")
        calls = Counter(call.layer.name for call in graph.calls)
        self._shared = {name for name, count in calls.items() if count > 1}
        self._writing = {
            call.layer.name for call in graph.calls if self._topology.fused_relu(call) is None
        }
        for key in graph.inputs:
            self._set(key, INDEX_BITS if topology.is_index(key) else self._own(key[0]))
        for call in graph.calls:
            if self._topology.is_tied(call):
                self._tie(call)
            elif self._topology.fused_relu(call) is None:
                self._set(call.output, self._width(call))
        self._refuse_mixed_calls()
        self._refuse_mixed_states()

    def _set(self, key: Key, bits: int) -> None:
        self._bits[key] = bits
        self.by_layer[key[0]] = bits
        producer = self._topology.producers.get(key)
        fused = self._topology.fused_producer(producer) if producer is not None else None
        # Of a shared layer that writes some results itself, the width is that of these, otherwise
        # the widest that a ReLU behind a call has.
        if fused is not None and fused.layer.name not in self._writing:
            name = fused.layer.name
            self.by_layer[name] = max(bits, self.by_layer.get(name, bits))

    def _own(self, name: str) -> int:
        return self._given.get(name, 8 if name in self._wide else self._default)

    def _width(self, call: Call) -> int:
        name = call.layer.name
        if self._topology.is_index(call.output):
            # Whole numbers, whatever was asked for.
            return INDEX_BITS
        if has_fixed_parameters(call.layer):
            return self._fixed_width(name)
        if joins(call.layer) and name not in self._given:
            widths = {self._bits[key] for key in call.inputs if not self._topology.is_constant(key)}
            if len(widths) == 1 and name not in self._wide:
                return widths.pop()
        fused = self._topology.fused_producer(call)
        if fused is None or fused.layer.name not in self._given:
            return self._own(name)
        bits = self._given[fused.layer.name]
        if fused.layer.name in self._shared:
            # The ReLU is one call's, the layer stands for all.
            return self._given.get(name, bits)
        if self._given.get(name, bits) != bits:
            raise ValueError(
                f"activation_bits gives {bits} to {fused.layer.name!r} and {self._given[name]} to "
                f"{name!r}, but one kernel computes both: they make one tensor; name one of them"
            )
        return bits

    def _fixed_width(self, name: str) -> int:
        bits = self._given.get(name, max(self._default, 8))
        if bits < 8:
            raise ValueError(
                f"activation_bits[{name!r}]={bits}: the kernels of softmax, sigmoid and tanh fix "
                "the codes of their results; allowed are 8 and 16"
            )
        return bits

    def _tie(self, call: Call) -> None:
        bits = self._bits[call.inputs[0]]
        self._bits[call.output] = bits
        name = call.layer.name
        if self._given.get(name, bits) != bits:
            raise ValueError(
                f"activation_bits[{name!r}]={self._given[name]}: the layer "
                f"({type(call.layer).__name__}) keeps the integers of its input, which has {bits} "
                f"bits; give the width to {self._topology.owner(call.output)[0]!r} instead"
            )

    def _refuse_mixed_calls(self) -> None:
        """The weights of a shared layer are stored for one integer type."""
        known: dict[str, tuple[str, int]] = {}
        for call, bits in self.kernels():
            if not linear.is_weighted(call.layer):
                continue
            name = (self._topology.fused_relu(call) or call).layer.name
            first, other = known.setdefault(call.layer.name, (name, bits))
            if activation_dtype(bits) != activation_dtype(other):
                raise ValueError(
                    f"activation_bits gives {other} to {first!r} and {bits} to {name!r}, but both "
                    f"are written by calls of {call.layer.name!r}, whose weights are stored for "
                    f"one integer type; give one width to {call.layer.name!r} instead"
                )

    def _refuse_mixed_states(self) -> None:
        for output, state in self._topology.states.items():
            if self._bits[output] != self._bits[state]:
                raise ValueError(
                    f"activation_bits gives {self._bits[state]} to the input {state[0]!r} and "
                    f"{self._bits[output]} to {self._topology.owner(output)[0]!r}, whose result is "
                    "that state in the next step; give both one width"
                )

    def kernels(self) -> Iterable[tuple[Call, int]]:
        """Calls that are operators of the file, with the width that they write."""
        for call in self._topology.operators():
            yield call, self._bits[self._topology.result(call)]


def _refuse_missing(resolver: _Resolver, target: str) -> None:
    table = targets.capabilities(target)
    wide = [name for name, bits in resolver.by_layer.items() if bits == 16]
    if wide and not table.computes_16_bits:
        raise ValueError(f"activation_bits=16 of {wide[0]!r} on target {target!r}: {table.advice}")
    for call, bits in resolver.kernels():
        problem = refused_at_16_bits(call, target) if bits == 16 else None
        if problem:
            raise ValueError(
                f"layer {call.layer.name!r}, activation_bits=16 on target {target!r}: {problem}"
            )


def refused_at_16_bits(call: Call, target: str) -> str | None:
    """Why the target lacks an operator without weights at 16 bits; weights are checked with theirs.

    None where it has it.
    """
    if linear.is_weighted(call.layer):
        return None
    kind = primitive_of(call.layer).kind_of(call.layer)
    return targets.check_operator(target, kind, activation_dtype="int16")
