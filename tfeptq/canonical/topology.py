"""Which layers of a canonical model become operators of the file, whatever the widths."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Hashable, Mapping

import keras

from tfeptq.canonical.constant_layer import Constant
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.canonical.linear import is_weighted
from tfeptq.canonical.primitives import Output, find_primitive


def output_of(layer: keras.Layer) -> Output | None:
    """Where the quantizer of a layer's output comes from; None: it is no primitive."""
    row = find_primitive(layer)
    return None if row is None else row.output_of(layer)


def is_relu(layer: keras.Layer) -> bool:
    """Whether a layer only cuts its input, as kernels do on their way out."""
    return output_of(layer) is Output.CUT


def joins(layer: keras.Layer) -> bool:
    """Whether the inputs of a layer must share one scale; the output then has it too, exactly."""
    return output_of(layer) is Output.JOINED


def keeps_grid(layer: keras.Layer) -> bool:
    """Whether a layer's result lies on the grid of its (first) input."""
    return output_of(layer) in (Output.MOVED, Output.JOINED)


def averages(layer: keras.Layer) -> bool:
    """Whether a layer that keeps its input's scale computes new values between the old ones."""
    return output_of(layer) is Output.AVERAGED


def chooses(layer: keras.Layer) -> bool:
    """Whether a layer gives the largest of many values."""
    row = find_primitive(layer)
    return row is not None and row.chooses


def keeps_order(layer: keras.Layer) -> bool:
    """Whether each result of a layer never falls, or never rises, with the number it is made of."""
    row = find_primitive(layer)
    return row is not None and row.keeps_order_of(layer)


def relu_cap(layer: keras.Layer) -> float | None:
    """Upper bound of a ReLU that is neither absent nor 6, which the file states by its range."""
    if is_relu(layer) and layer.max_value not in (None, 6.0):
        return float(layer.max_value)
    return None


def least_result(layer: keras.Layer) -> float:
    """A number below which no result of a layer is; -infinity where none is known."""
    is_plain = is_relu(layer) and not (layer.negative_slope or layer.threshold)
    return 0.0 if is_plain else -float("inf")


def cuts_nothing(relu: keras.layers.ReLU) -> bool:
    """Whether a ReLU has no upper bound: it only drops integers."""
    return relu.max_value is None


class Topology:
    """Facts of a canonical model's graph that do not depend on widths.

    Args:
        states: output -> the input that it becomes in the next step, of a model that is one step.
    """

    def __init__(self, graph: LayerGraph, states: Mapping[Key, Key] | None = None) -> None:
        self.graph = graph
        self.states = dict(states or {})
        self.producers = {call.output: call for call in graph.calls}
        self.consumers = graph.consumers()
        self._calls = Counter(call.layer.name for call in graph.calls)
        self._seen: dict[Key, tuple[Key, ...]] = {}

    def place_in_time(self, call: Call) -> Hashable | None:
        """What the steps of a sequence that do the same have in common; None: no such step.

        One quantizer serves the results of a place. Layers that hold nothing are called several
        times by steps only. Models share those with weights, and slopes, for other reasons too:
        their calls are steps where all results go into such layers, which tell the sequence.
        """
        if self._only_steps(call.layer):
            return call.layer.name
        if self._calls[call.layer.name] == 1 or not is_weighted(call.layer):
            return None
        readers = [reader.layer for reader in self.consumers.get(call.output, ())]
        if not readers or not all(map(self._only_steps, readers)):
            return None
        return call.layer.name, frozenset(reader.name for reader in readers)

    def _only_steps(self, layer: keras.Layer) -> bool:
        row = find_primitive(layer)
        holds = is_weighted(layer) or (row is not None and row.has_slopes)
        return self._calls[layer.name] > 1 and not holds

    def fused_relu(self, call: Call) -> Call | None:
        """The ReLU that the kernel of `call` applies itself; its result is in no tensor then."""
        readers, row = self.consumers.get(call.output, []), find_primitive(call.layer)
        fuses = (
            row is not None
            and row.fuses
            and len(readers) == 1
            and is_relu(readers[0].layer)
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
        output = output_of(call.layer)
        if output in (Output.MOVED, Output.AVERAGED):
            return True
        if output is not Output.CUT or relu_cap(call.layer) is not None:
            return False
        producer = self.producers.get(call.inputs[0])
        return producer is None or self.fused_relu(producer) is None

    def read(self, key: Key) -> tuple[Key, ...]:
        """The tensors in which the values of a tensor of the file are read in the end.

        Of a tensor whose readers all move, choose or cut integers, only what they give to others
        matters: in front of a maximum over all places, what is below its least may be clipped, and
        in front of a ReLU what is negative. The model's inputs and outputs are its caller's.
        """
        readers, passing = self.consumers.get(key, ()), self._passing(key)
        if self._is_public(key) or not passing or len(passing) < len(readers):
            return (key,)
        return tuple(dict.fromkeys(found for call in passing for found in self.read(call.output)))

    def seen(self, key: Key) -> tuple[Key, ...]:
        """Where values of a tensor are read in the end, past layers that keep their order as well.

        The largest result of a LeakyReLU is that of the largest number: in front of a maximum over
        all places no other is read. Those layers compute with scales of their own, so unlike those
        of `read` these tensors may be in other units. A maximum or concatenation of several
        tensors passes on what it takes from each.
        """
        if key not in self._seen:
            # Once a tensor: paths through residual sums double at each of them.
            self._seen[key] = self._seen_from(key)
        return self._seen[key]

    def _seen_from(self, key: Key) -> tuple[Key, ...]:
        readers = self.consumers.get(key, ())
        if self._is_public(key) or not all(self.passes(c) or self.orders(c) for c in readers):
            return (key,)
        found: list[Key] = []
        for call in readers:
            behind = self.seen(call.output)
            if not self.passes(call) and behind == (call.output,):
                return (key,)
            found += behind
        return tuple(dict.fromkeys(found)) or (key,)

    def orders(self, call: Call) -> bool:
        """Whether a call keeps the order of numbers, or passes some of them on as they are."""
        return joins(call.layer) or keeps_order(call.layer)

    def chosen(self, key: Key) -> tuple[Key, ...]:
        """What maxima choose of a tensor, or of what it is read in, where that is not all of it."""
        found: list[Key] = []
        for call in self._passing(key):
            found += self.read(call.output) if chooses(call.layer) else ()
            found += self.chosen(call.output)
        read = self.read(key)
        return tuple(made for made in dict.fromkeys(found) if made not in read)

    def passes(self, call: Call) -> bool:
        """Whether f(clip(x)) = clip(f(x)), and the results have the scale of x."""
        return self.is_tied(call) and not averages(call.layer)

    def _passing(self, key: Key) -> list[Call]:
        return [call for call in self.consumers.get(key, ()) if self.passes(call)]

    def _is_public(self, key: Key) -> bool:
        """Whether a tensor is the caller's: an input or an output of the model."""
        return key in self.graph.inputs or key in self.graph.outputs

    def written(self) -> list[Key]:
        """Every tensor of the file, in order: what no kernel keeps to itself."""
        made = [call.output for call in self.graph.calls if self.fused_relu(call) is None]
        return [*self.graph.inputs, *made]

    def fused_producer(self, relu: Call) -> Call | None:
        """The call whose kernel applies `relu`, if it is a ReLU that one does."""
        producer = self.producers.get(relu.inputs[0])
        is_fused = (
            is_relu(relu.layer) and producer is not None and self.fused_relu(producer) is not None
        )
        return producer if is_fused else None

    def is_constant(self, key: Key) -> bool:
        """Whether a tensor is an array, which is written in the type of its reader."""
        producer = self.producers.get(key)
        return producer is not None and isinstance(producer.layer, Constant)

    def is_index(self, key: Key) -> bool:
        """Whether a tensor numbers rows of tables, or places: it is read and written as it is."""
        return key in self._indices

    @functools.cached_property
    def _indices(self) -> set[Key]:
        """Numbers of places, what tables read, and what moves numbers on the way there."""
        found = {call.output for call in self.graph.calls if self.makes_indices(call)}
        for call in reversed(self.graph.calls):
            row = find_primitive(call.layer)
            is_read = call.output in found and not self.makes_indices(call)
            if is_read or (row is not None and row.looks_up):
                found.update(call.inputs)
        for call in self.graph.calls:
            if keeps_grid(call.layer) and not found.isdisjoint(call.inputs):
                found.add(call.output)
        return found

    def makes_indices(self, call: Call | None) -> bool:
        """Whether the output of a call numbers places."""
        row = None if call is None else find_primitive(call.layer)
        return row is not None and row.makes_indices

    def operators(self) -> list[Call]:
        """Calls that are operators of the file: neither arrays nor what another kernel applies."""
        return [
            call
            for call in self.graph.calls
            if self.fused_producer(call) is None and not isinstance(call.layer, Constant)
        ]

    def result(self, call: Call) -> Key:
        """The tensor in which the kernel of `call` writes."""
        return (self.fused_relu(call) or call).output
