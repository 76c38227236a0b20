"""What is decided about a model before anything is quantized; everybody else asks here.

A plan is built once from the canonical model, the request and the target's tables. Widths that are
chosen later, and ranges that are measured later, give a new plan from the old one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras

from tfeptq.canonical.integer_types import activation_dtype
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.canonical.primitives import Magnitude, find_primitive
from tfeptq.canonical.topology import Topology
from tfeptq.config import QuantizationConfig
from tfeptq.plan.activations import activation_widths
from tfeptq.plan.assignment import tensor_plans
from tfeptq.plan.groups import ActivationGroup, activation_groups
from tfeptq.plan.input_ranges import Range, fixed_by_range, input_ranges
from tfeptq.plan.sharing import Ranges
from tfeptq.plan.states import state_keys
from tfeptq.plan.tensors import Operand, Quantizer, TensorPlan, TensorPlans, fixed_parameters
from tfeptq.plan.weights import (
    WeightStorage,
    asked_widths,
    requantization,
    storable_widths,
    weight_storage,
)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """An operator of the file.

    Attributes:
        call: what it computes.
        relu: what it applies to its result; None: nothing.
        operands: what it reads, in the order of `call.inputs`.
        quantizer: in whose scale it writes.
    """

    call: Call
    relu: Call | None
    operands: tuple[Operand, ...]
    quantizer: Quantizer

    @property
    def result(self) -> Key:
        """The tensor that it writes."""
        return (self.relu or self.call).output


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizationPlan:
    """Everything that follows from a canonical model, a request and a target. Immutable.

    Attributes:
        model: the canonical float model.
        graph: its calls.
        target: what it is quantized for.
        weight_grid: which values weights may have, see `tfeptq.config.WEIGHT_GRIDS`.
        asked: layer name -> widths of its weights that were asked for, ascending.
        candidates: the same without those that the target cannot store.
        weights: layer name -> how its weights are held; of candidates the widest.
        activation_bits: layer name -> width of its output, of every layer that has one of its own,
            inputs too; 8 where it is still to be chosen.
        groups: group name -> layers whose outputs have one width, and its candidates.
        tensors: of every tensor of the file.
        operands: output of a call -> what it reads, in the order of its inputs; but for arrays.
        kernels: the operators of the file that are calls of the model, in order. Requantizations
            stand where an operand is a copy.
        requantizations: layer name -> how its kernel rounds its accumulator to the output's
            integers, of layers with weights and of global means.
        input_ranges: input name -> the range that its quantizer is fixed to.
        ranges: of the model's tensors; None: not known, as before there are samples.
    """

    model: keras.Model
    graph: LayerGraph
    target: str
    weight_grid: str
    asked: Mapping[str, tuple[int, ...]]
    candidates: Mapping[str, tuple[int, ...]]
    weights: Mapping[str, WeightStorage]
    activation_bits: Mapping[str, int]
    groups: Mapping[str, ActivationGroup]
    tensors: Mapping[Key, TensorPlan]
    operands: Mapping[Key, tuple[Operand, ...]]
    kernels: tuple[Kernel, ...]
    requantizations: Mapping[str, str]
    input_ranges: Mapping[str, Range]
    ranges: Ranges | None
    topology: Topology

    @classmethod
    def of(
        cls,
        model: keras.Model,
        config: QuantizationConfig,
        ranges: Ranges | None = None,
        *,
        original: keras.Model | None = None,
        states: Mapping[Key, Key] | None = None,
    ) -> QuantizationPlan:
        """The plan of a request.

        Args:
            model: canonical, see `tfeptq.preparation.prepare`.
            ranges: tensor -> smallest and largest value on the calibration samples.
            original: the functional model by whose outputs the request names states; None: `model`.
            states: the states of another plan of the same request, instead of `original`.

        Raises:
            ValueError: an unknown layer or input name, or a width that the layer or the target
                cannot have; names the layer.
        """
        if states is None:
            states = state_keys(model, original or model, config.states)
        topology = Topology(LayerGraph.of(model), states)
        given = config.activation_bits
        candidates = given if isinstance(given, tuple) else ()
        fixed = 8 if isinstance(given, tuple) else given
        bits = activation_widths(model, topology, fixed, config.target)
        groups = activation_groups(model, topology, bits, candidates, config.target)
        asked = asked_widths(model, topology.graph, config)
        storable = {
            name: storable_widths(
                topology.graph.layers[name],
                widths,
                dtype=activation_dtype(bits[name]),
                target=config.target,
                grid=config.weight_grid,
            )
            for name, widths in asked.items()
        }
        bounds = input_ranges(model, config.input_range)
        widest = {name: max(widths) for name, widths in storable.items()}
        return cls(
            model=model,
            graph=topology.graph,
            target=config.target,
            weight_grid=config.weight_grid,
            asked=MappingProxyType(asked),
            candidates=MappingProxyType(storable),
            groups=MappingProxyType(groups),
            input_ranges=MappingProxyType(bounds),
            topology=topology,
            **_decided(
                model,
                topology,
                target=config.target,
                weight_grid=config.weight_grid,
                weight_bits=widest,
                activation_bits=bits,
                input_ranges=bounds,
                ranges=ranges,
            ),
        )

    def with_widths(
        self,
        *,
        weights: Mapping[str, int] = MappingProxyType({}),
        activations: Mapping[str, int] = MappingProxyType({}),
    ) -> QuantizationPlan:
        """The plan with other widths; what is not named keeps its own.

        Args:
            weights: layer name -> width of its weights.
            activations: group name -> width of its layers' outputs.

        Raises:
            ValueError: a width that the layer or the target cannot have; names the layer.
        """
        bits = self.activation_bits
        if activations:
            chosen = {
                layer: width
                for group, width in activations.items()
                for layer in self.groups[group].layers
            }
            bits = activation_widths(self.model, self.topology, {**bits, **chosen}, self.target)
        return self._again(weight_bits={**self.weight_bits, **weights}, activation_bits=bits)

    def with_ranges(self, ranges: Ranges | None) -> QuantizationPlan:
        """The plan of a model whose tensors have these ranges."""
        return self._again(ranges=ranges)

    def storage(self, layer: str, bits: int, dtype: str | None = None) -> WeightStorage:
        """How a layer's weights would be held at another width.

        Args:
            dtype: integer type of its kernel, "int8" or "int16"; None: the planned one.

        Raises:
            ValueError: a width that the target cannot store; names the layer.
        """
        return weight_storage(
            self.graph.layers[layer],
            bits,
            dtype=dtype or self.weights[layer].dtype,
            target=self.target,
            grid=self.weight_grid,
        )

    def storable(self, layer: str, dtype: str) -> tuple[int, ...]:
        """Those of a layer's candidates that a kernel of an integer type can read.

        Raises:
            ValueError: there is none; names the layer.
        """
        return storable_widths(
            self.graph.layers[layer],
            self.candidates[layer],
            dtype=dtype,
            target=self.target,
            grid=self.weight_grid,
        )

    def fixed_parameters(self, quantizer: Quantizer, bits: int) -> tuple[float, int] | None:
        """Scale and zero point of one of the plan's quantizers at a width, if they are fixed."""
        source = quantizer.sources[0]
        if quantizer.fixed is None:
            return None
        if source in self.graph.inputs:
            bounds = self.input_ranges.get(source[0])
            # Numbers of rows are what they are.
            return quantizer.fixed if bounds is None else fixed_by_range(bounds, bits)
        reached = (
            None if self.ranges is None or source not in self.ranges else self.ranges[source][1]
        )
        return fixed_parameters(self.topology.producers[source].layer, bits, reached)

    @property
    def weight_bits(self) -> dict[str, int]:
        """Layer name -> width of its weights."""
        return {name: storage.bits for name, storage in self.weights.items()}

    @property
    def states(self) -> Mapping[Key, Key]:
        """Output -> the input that it becomes in the next step, of a model that is one step."""
        return self.topology.states

    @property
    def chooses_activations(self) -> bool:
        """Whether the request gives candidates for widths of activations."""
        return any(group.widths for group in self.groups.values())

    @property
    def quantizers(self) -> dict[str, Quantizer]:
        """By name: of the tensors, and those that make copies of them."""
        found = [tensor.quantizer for tensor in self.tensors.values()]
        read = (operand.quantizer for kernel in self.kernels for operand in kernel.operands)
        found += [quantizer for quantizer in read if quantizer is not None]
        return {quantizer.name: quantizer for quantizer in found}

    def group_of(self, key: Key) -> str:
        """The group whose width a tensor of the file has."""
        return self.group_of_layer(self.topology.owner(key)[0])

    def group_of_layer(self, name: str) -> str:
        """The group of a layer whose output has a width of its own."""
        return next(group.name for group in self.groups.values() if name in group.layers)

    def _again(self, **changed: Any) -> QuantizationPlan:
        """The plan that follows from other widths or ranges."""
        names = (
            "target",
            "weight_grid",
            "weight_bits",
            "activation_bits",
            "input_ranges",
            "ranges",
        )
        facts = {name: getattr(self, name) for name in names}
        decided = _decided(self.model, self.topology, **{**facts, **changed})
        return dataclasses.replace(self, **decided)


def _decided(
    model: keras.Model,
    topology: Topology,
    *,
    target: str,
    weight_grid: str,
    weight_bits: Mapping[str, int],
    activation_bits: Mapping[str, int],
    input_ranges: Mapping[str, Range],
    ranges: Ranges | None,
) -> dict[str, Any]:
    """The parts of a plan that follow from widths and ranges."""
    dtypes = {name: activation_dtype(bits) for name, bits in activation_bits.items()}
    layers = topology.graph.layers
    weights = {
        name: weight_storage(
            layers[name], bits, dtype=dtypes[name], target=target, grid=weight_grid
        )
        for name, bits in weight_bits.items()
    }
    means = {
        layer.name: requantization(row.kind_of(layer), dtype=dtypes[layer.name], target=target)
        for layer in model.layers
        if (row := find_primitive(layer)) is not None and row.magnitude is Magnitude.MEAN
    }
    rounded = {name: storage.requantization for name, storage in weights.items()}
    plans = tensor_plans(topology, activation_bits, ranges, input_ranges)
    return {
        "weights": MappingProxyType(weights),
        "activation_bits": MappingProxyType(dict(activation_bits)),
        "tensors": plans.tensors,
        "operands": plans.operands,
        "kernels": tuple(_kernel(topology, call, plans) for call in topology.operators()),
        "requantizations": MappingProxyType({**rounded, **means}),
        "ranges": ranges,
    }


def _kernel(topology: Topology, call: Call, plans: TensorPlans) -> Kernel:
    relu = topology.fused_relu(call)
    written = plans.tensors[(relu or call).output]
    return Kernel(call, relu, plans.operands[call.output], written.quantizer)
