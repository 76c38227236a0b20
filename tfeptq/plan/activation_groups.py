"""Activations whose widths are chosen together, and the widths that each group may take.

Residual additions and concatenations tie what they read to what they write: one width there, so
that no requantization stands in front of them. A softmax or sigmoid that ends the model goes with
its logits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import keras

from tfeptq.canonical import linear
from tfeptq.canonical.constant_layer import Constant
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.canonical.operators import operator_kind
from tfeptq.config import QuantizationConfig
from tfeptq.plan.activations import boundary_layers, resolve_activations
from tfeptq.plan.slots import Topology, has_fixed_parameters
from tflite_export import targets


@dataclasses.dataclass(frozen=True)
class ActivationGroup:
    """Layers whose outputs have one width.

    Attributes:
        name: of its first layer.
        layers: as a mapping for `QuantizationConfig.activation_bits` names them.
        widths: candidates, ascending.
    """

    name: str
    layers: tuple[str, ...]
    widths: tuple[int, ...]


class ActivationGroups:
    """The groups of a canonical model.

    Args:
        config: `activation_bits` holds the candidates.

    Attributes:
        by_name: group name -> group, in the model's order.

    Raises:
        ValueError: layers that can have none of the candidates.
    """

    def __init__(self, model: keras.Model, config: QuantizationConfig) -> None:
        assert isinstance(config.activation_bits, tuple)
        self._graph: LayerGraph = LayerGraph.of(model)
        self._topology: Topology = Topology(self._graph)
        plain = resolve_activations(model, config.at_activations(8))
        assert isinstance(plain.activation_bits, Mapping)
        self._parents: dict[str, str] = {name: name for name in plain.activation_bits}
        for call in self._graph.calls:
            self._tie(call)
        members: dict[str, list[str]] = {}
        for name in self._parents:
            members.setdefault(self._root(name), []).append(name)
        allowed = _Allowed(model, config, boundary_layers(model, self._topology))
        self.by_name: dict[str, ActivationGroup] = {
            layers[0]: ActivationGroup(layers[0], tuple(layers), allowed(layers))
            for layers in members.values()
        }
        self._group_of: dict[str, str] = {
            layer: group.name for group in self.by_name.values() for layer in group.layers
        }

    def of_tensor(self, key: Key) -> str:
        """The group whose width a tensor of the file has."""
        return self._group_of[self._topology.owner(key)[0]]

    def of_layer(self, name: str) -> str:
        """The group whose width the output of a layer has, which has one of its own."""
        return self._group_of[name]

    def by_layer(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Group name -> width, as a mapping for `QuantizationConfig.activation_bits`."""
        return {
            layer: widths[group.name] for group in self.by_name.values() for layer in group.layers
        }

    def _tie(self, call: Call) -> None:
        if self._topology.is_tied(call):
            return
        name = call.layer.name
        if (relu := self._topology.fused_relu(call)) is not None:
            self._unite(name, relu.layer.name)
        ends = call.output in self._graph.outputs and has_fixed_parameters(call.layer)
        if len(call.inputs) > 1 or ends:
            for key in call.inputs:
                self._unite(name, self._topology.owner(key)[0])

    def _root(self, name: str) -> str:
        while self._parents[name] != name:
            name = self._parents[name]
        return name

    def _unite(self, left: str, right: str) -> None:
        self._parents[self._root(right)] = self._root(left)


class _Allowed:
    """Candidates of a group: below 8 bits neither at the model's ends nor with fixed codes."""

    def __init__(self, model: keras.Model, config: QuantizationConfig, boundary: set[str]) -> None:
        assert isinstance(config.activation_bits, tuple)
        graph = LayerGraph.of(model)
        shapes = graph.shapes(model)
        self._candidates: tuple[int, ...] = config.activation_bits
        self._fixed: set[str] = boundary | {
            call.layer.name for call in graph.calls if has_fixed_parameters(call.layer)
        }
        self._refusals: dict[str, str] = {}
        topology = Topology(graph)
        fused = [topology.fused_relu(call) for call in graph.calls]
        for call in graph.calls:
            is_operator = call not in fused and not isinstance(call.layer, Constant)
            if is_operator and not linear.is_weighted(call.layer):
                kind = operator_kind(call.layer, shapes[call.output], shapes[call.inputs[0]])
                problem = targets.check_operator(config.target, kind, activation_dtype="int16")
                if problem:
                    self._refusals[call.layer.name] = problem

    def __call__(self, layers: Iterable[str]) -> tuple[int, ...]:
        layers = list(layers)
        widths = self._candidates
        if not self._fixed.isdisjoint(layers):
            widths = tuple(bits for bits in widths if bits >= 8) or (8,)
        refused = [name for name in layers if name in self._refusals]
        if refused:
            widths = tuple(bits for bits in widths if bits != 16)
        if not widths:
            raise ValueError(
                f"layer {refused[0]!r}, activation_bits=16: {self._refusals[refused[0]]}; give a "
                "narrower candidate as well"
            )
        return widths
