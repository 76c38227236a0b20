"""Costs of widths of weights and activations together, as tables over the widths that decide them.

- weight bytes: containers and granularities depend on the integer type of the kernel;
- bit operations: multiplications x weight bits x operand bits. A kernel reads what its own integer
  type holds: 8-bit layers behind a 16-bit tensor read 8 bits;
- activation bytes: one cost a step of execution, of every tensor that is alive there, copies in
  another integer type included. The largest of them is the peak.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np

from tfeptq.canonical import linear
from tfeptq.canonical.constant_layer import Constant
from tfeptq.canonical.integer_types import activation_dtype
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.config import QuantizationConfig
from tfeptq.plan.activation_groups import ActivationGroups
from tfeptq.plan.input_ranges import input_ranges
from tfeptq.plan.sharing import Ranges
from tfeptq.plan.slots import Plan, Topology
from tfeptq.plan.widths import container
from tfeptq.selection.costs import layer_multiplications, stored_bytes, weight_bytes
from tfeptq.selection.joint import Factor, Variable
from tfeptq.selection.skeleton import file_bytes, skeleton
from tflite_export.graph.structure import IntegerGraph

#: Bytes of a bias, by the integer type of the kernel.
_BIAS_BYTES = {"int8": 4, "int16": 8}
#: Of a requantization and its tensor in a file, names included.
_COPY_BYTES = 130
_STEP = "activation_bytes@"


def weights(name: str) -> Variable:
    """The variable of a layer's weights."""
    return ("weights", name)


def activations(group: str) -> Variable:
    """The variable of a group of activations."""
    return ("activations", group)


def cost_factors(
    model: keras.Model,
    candidates: Mapping[str, Sequence[int]],
    groups: ActivationGroups,
    config: QuantizationConfig,
    ranges: Ranges | None = None,
    *,
    of_files: bool = True,
) -> list[Factor]:
    """Tables of "weight_bytes", "file_bytes", "bit_operations" and the steps of `step_names`.

    Args:
        candidates: layer name -> widths of its weights.
        ranges: of the model's tensors, see `tfeptq.plan.slots.Plan`.
        of_files: False spares what only the sizes of files need, and takes longest.
    """
    graph = LayerGraph.of(model)
    return [
        *_storage(model, candidates, groups, config),
        *_operations(model, graph, candidates, groups),
        *_Memory(model, graph, groups, config, ranges).factors(),
        *(_clamps(model, candidates, groups, config, ranges) if of_files else ()),
    ]


def step_names(factors: Sequence[Factor]) -> list[str]:
    """Names of the costs that are bytes alive at one step."""
    names = (name for factor in factors for costs in factor.costs.values() for name in costs)
    return sorted({name for name in names if name.startswith(_STEP)})


def _storage(
    model: keras.Model,
    candidates: Mapping[str, Sequence[int]],
    groups: ActivationGroups,
    config: QuantizationConfig,
) -> Iterator[Factor]:
    """What a layer's weights occupy; without what the target cannot store."""
    for name, widths in candidates.items():
        layer, group = model.get_layer(name), groups.by_name[groups.of_layer(name)]
        table: dict[tuple[int, ...], dict[str, float]] = {}
        for bits, wide in itertools.product(widths, group.widths):
            at_width = config.at_activations(wide)
            try:
                container(layer, bits, at_width)
            except ValueError:
                continue
            bias = layer.bias.shape[0] * _BIAS_BYTES[activation_dtype(wide)]
            table[bits, wide] = {
                "weight_bytes": float(weight_bytes(layer, bits, at_width)),
                "file_bytes": float(stored_bytes(layer, bits, at_width) + bias),
            }
        yield Factor((weights(name), activations(group.name)), table)


def _operations(
    model: keras.Model,
    graph: LayerGraph,
    candidates: Mapping[str, Sequence[int]],
    groups: ActivationGroups,
) -> Iterator[Factor]:
    multiplications = layer_multiplications(model)
    calls = [call for call in graph.calls if linear.is_weighted(call.layer)]
    count = {name: sum(call.layer.name == name for call in calls) for name in candidates}
    for call in calls:
        name = call.layer.name
        read, written = groups.of_tensor(call.inputs[0]), groups.of_layer(name)
        variables = tuple(dict.fromkeys((activations(read), activations(written))))
        share = multiplications[name] / count[name]
        table = {
            (bits, *wide): {"bit_operations": share * bits * _operand_bits(wide[0], wide[-1])}
            for bits in candidates[name]
            for wide in itertools.product(*_widths(variables, groups))
        }
        yield Factor((weights(name), *variables), table)


def _operand_bits(read: int, written: int) -> int:
    """Width in which a kernel reads a tensor of width `read` if it writes `written`."""
    return 16 if written == 16 else min(read, 8)


def _widths(variables: Sequence[Variable], groups: ActivationGroups) -> list[tuple[int, ...]]:
    return [groups.by_name[name].widths for _, name in variables]


def _clamps(
    model: keras.Model,
    candidates: Mapping[str, Sequence[int]],
    groups: ActivationGroups,
    config: QuantizationConfig,
    ranges: Ranges | None,
) -> Iterator[Factor]:
    """File bytes of the operators that keep results below 8 bits within their codes.

    Which kernels need one depends on their graph: it is made with every group at its narrowest.
    """
    narrowest = {name: min(group.widths) for name, group in groups.by_name.items()}
    if min(narrowest.values()) >= 8:
        return
    wide = {name: max(bits, 8) for name, bits in narrowest.items()}
    widest = {name: max(widths) for name, widths in candidates.items()}
    clamped, plain = (
        skeleton(
            model,
            widest,
            config.at_activations(groups.by_layer(widths)),
            ranges,
        )
        for widths in (narrowest, wide)
    )
    counts = _operators_by_layer(clamped) - _operators_by_layer(plain)
    extra = file_bytes(clamped, config.target) - file_bytes(plain, config.target)
    # Requantizations in front of concatenations are named after their quantizers.
    bounds = input_ranges(model, config.input_range)
    plan = Plan(LayerGraph.of(model), groups.by_layer(narrowest), ranges, bounds)
    copies = {slot.name: groups.of_tensor(key) for key, slot in plan.slots.items()}
    for name, group in groups.by_name.items():
        members = [*group.layers, *(copy for copy, owner in copies.items() if owner == name)]
        count = sum(counts[layer] for layer in members)
        size = extra * count / max(counts.total(), 1)
        table: dict[tuple[int, ...], dict[str, float]] = {
            (bits,): {"file_bytes": size if bits < 8 else 0.0} for bits in group.widths
        }
        yield Factor((activations(name),), table)


def _operators_by_layer(graph: IntegerGraph) -> Counter[str]:
    return Counter(operator.layer for operator in graph.operators)


class _Memory:
    """Bytes alive at every step: of each tensor from its kernel to its last reader.

    Every kernel has two steps: first copies of its inputs in its own integer type are written,
    unless an earlier reader has had them, and those in its own scale; then it runs.
    """

    def __init__(
        self,
        model: keras.Model,
        graph: LayerGraph,
        groups: ActivationGroups,
        config: QuantizationConfig,
        ranges: Ranges | None,
    ) -> None:
        self._groups = groups
        self._shapes = graph.shapes(model)
        topology = Topology(graph)
        # A ReLU that another kernel applies has no step of its own.
        fused = {relu.output: call for call in graph.calls if (relu := topology.fused_relu(call))}
        kernels = [
            call
            for call in graph.calls
            if call.output not in fused and not isinstance(call.layer, Constant)
        ]
        result = {call.output: (topology.fused_relu(call) or call).output for call in kernels}
        self._births = dict.fromkeys(graph.inputs, 0)
        self._readers: dict[Key, list[tuple[int, str]]] = {}
        for index, call in enumerate(kernels):
            self._births[result[call.output]] = 2 * index + 1
            for key in dict.fromkeys(call.inputs):
                self._readers.setdefault(key, []).append(
                    (2 * index + 1, self._writes(result, call))
                )
        self._end = 2 * len(kernels)
        self._outputs = set(graph.outputs)
        bounds = input_ranges(model, config.input_range)
        self._rescaled: dict[str, set[tuple[Key, int]]] = {}
        for dtype, bits in (("int8", 8), ("int16", 16)):
            by_layer = groups.by_layer(dict.fromkeys(groups.by_name, bits))
            plan = Plan(graph, by_layer, ranges, bounds)
            self._rescaled[dtype] = {
                (key, 2 * index + 1)
                for index, call in enumerate(kernels)
                for key in plan.copies(call)
            }

    def _writes(self, result: Mapping[Key, Key], call: Call) -> str:
        return self._groups.of_tensor(result[call.output])

    def factors(self) -> Iterator[Factor]:
        for key, birth in self._births.items():
            own, readers = self._groups.of_tensor(key), self._readers.get(key, [])
            names = tuple(dict.fromkeys((own, *(group for _, group in readers))))
            variables = tuple(activations(name) for name in names)
            table: dict[tuple[int, ...], dict[str, float]] = {}
            for combination in itertools.product(*_widths(variables, self._groups)):
                types = {
                    name: activation_dtype(bits)
                    for name, bits in zip(names, combination, strict=True)
                }
                reading = [(step, types[group]) for step, group in readers]
                table[combination] = self._alive(key, birth, types[own], reading)
            yield Factor(variables, table)

    def _alive(
        self, key: Key, birth: int, dtype: str, readers: Sequence[tuple[int, str]]
    ) -> dict[str, float]:
        """Step -> bytes of a tensor and of its copies, in the other type or in another scale.

        And what the copies' operators add to the file.
        """
        elements = int(np.prod(self._shapes[key]))
        direct = [step for step, reads in readers if reads == dtype]
        others = [step for step, reads in readers if reads != dtype]
        ends = [birth, *direct, *([self._end] if key in self._outputs else [])]
        spans = []
        if others:
            # The copy is written in the step before its first reader, from the tensor itself.
            ends.append(others[0] - 1)
            spans.append((others[0] - 1, others[-1], 3 - np.dtype(dtype).itemsize))
        rescaled = [step for step in direct if (key, step) in self._rescaled[dtype]]
        spans += [(step - 1, step, np.dtype(dtype).itemsize) for step in rescaled]
        spans.append((birth, max(ends), np.dtype(dtype).itemsize))
        copies = bool(others) + len(rescaled)
        alive: dict[str, float] = {"file_bytes": float(_COPY_BYTES * copies)}
        for first, last, size in spans:
            for step in range(first, last + 1):
                name = f"{_STEP}{step}"
                alive[name] = alive.get(name, 0.0) + float(elements * size)
        return alive
