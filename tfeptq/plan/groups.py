"""Activations whose widths are chosen together, and the widths that each group may take.

Residual additions and concatenations tie what they read to what they write: one width there, so
that no requantization stands in front of them. A softmax or sigmoid that ends the model goes with
its logits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import keras

from tfeptq.canonical.integer_types import INDEX_BITS
from tfeptq.canonical.layer_graph import Call
from tfeptq.canonical.topology import Topology
from tfeptq.plan.activations import boundary_layers, refused_at_16_bits
from tfeptq.plan.tensors import has_fixed_parameters


@dataclasses.dataclass(frozen=True)
class ActivationGroup:
    """Layers whose outputs have one width.

    Attributes:
        name: of its first layer.
        layers: those with a width of their own, see `tfeptq.plan.activations`.
        widths: candidates, ascending; none where the request fixes the width of every layer.
    """

    name: str
    layers: tuple[str, ...]
    widths: tuple[int, ...]


def activation_groups(
    model: keras.Model,
    topology: Topology,
    layers: Iterable[str],
    candidates: Sequence[int],
    target: str,
) -> dict[str, ActivationGroup]:
    """Group name -> group, in the model's order.

    Args:
        layers: those with a width of their own.
        candidates: widths to choose from; none: nothing is chosen.

    Raises:
        ValueError: layers that can have none of the candidates.
    """
    ties = _Ties(topology, layers)
    allowed = _Allowed(model, topology, candidates, target) if candidates else None
    groups = (
        ActivationGroup(members[0], tuple(members), allowed(members) if allowed else ())
        for members in ties.groups()
    )
    return {group.name: group for group in groups}


class _Ties:
    """Which layers' widths are one."""

    def __init__(self, topology: Topology, layers: Iterable[str]) -> None:
        self._topology = topology
        self._parents = {name: name for name in layers}
        for call in topology.graph.calls:
            self._tie(call)
        for output, state in topology.states.items():
            self._unite(topology.owner(output)[0], topology.owner(state)[0])

    def groups(self) -> list[list[str]]:
        members: dict[str, list[str]] = {}
        for name in self._parents:
            members.setdefault(self._root(name), []).append(name)
        return list(members.values())

    def _tie(self, call: Call) -> None:
        if self._topology.is_tied(call):
            return
        name = call.layer.name
        if (relu := self._topology.fused_relu(call)) is not None:
            self._unite(name, relu.layer.name)
        ends = call.output in self._topology.graph.outputs and has_fixed_parameters(call.layer)
        ends = ends and not self._topology.makes_indices(call)
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

    def __init__(
        self, model: keras.Model, topology: Topology, candidates: Sequence[int], target: str
    ) -> None:
        graph = topology.graph
        self._candidates = tuple(candidates)
        self._fixed = boundary_layers(model, topology) | {
            call.layer.name for call in graph.calls if has_fixed_parameters(call.layer)
        }
        written = (*graph.inputs, *(call.output for call in graph.calls))
        self._indices = {key[0] for key in written if topology.is_index(key)}
        self._refusals: dict[str, str] = {}
        for call in topology.operators():
            if (problem := refused_at_16_bits(call, target)) is not None:
                # What only reads 16 bits refuses them to the tensor that it reads.
                reads = topology.makes_indices(call)
                refused = topology.owner(call.inputs[0])[0] if reads else call.layer.name
                self._refusals[refused] = problem

    def __call__(self, layers: Iterable[str]) -> tuple[int, ...]:
        layers = list(layers)
        if not self._indices.isdisjoint(layers):
            return (INDEX_BITS,)
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
