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
from collections.abc import Iterator, Sequence

import numpy as np

from tfeptq.canonical.integer_types import activation_dtype
from tfeptq.canonical.layer_graph import Key
from tfeptq.goals import Budget
from tfeptq.plan.quantization_plan import QuantizationPlan
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
    plan: QuantizationPlan, budget: Budget | None, *, of_files: bool = True
) -> list[Factor]:
    """Tables of "weight_bytes", "file_bytes", "bit_operations" and the steps of `step_names`.

    Args:
        of_files: False spares what only the sizes of files need, and takes longest.
    """
    return [
        *_storage(plan, budget),
        *_operations(plan),
        *_Memory(plan).factors(),
        *(_clamps(plan) if of_files else ()),
    ]


def step_names(factors: Sequence[Factor]) -> list[str]:
    """Names of the costs that are bytes alive at one step."""
    names = (name for factor in factors for costs in factor.costs.values() for name in costs)
    return sorted({name for name in names if name.startswith(_STEP)})


def _storage(plan: QuantizationPlan, budget: Budget | None) -> Iterator[Factor]:
    """What a layer's weights occupy; without what the target cannot store."""
    for name, widths in plan.candidates.items():
        group = plan.groups[plan.group_of_layer(name)]
        channels = plan.model.get_layer(name).bias.shape[0]
        table: dict[tuple[int, ...], dict[str, float]] = {}
        for bits, wide in itertools.product(widths, group.widths):
            try:
                held = plan.storage(name, bits, activation_dtype(wide))
            except ValueError:
                continue
            bias = channels * _BIAS_BYTES[held.dtype]
            table[bits, wide] = {
                "weight_bytes": float(weight_bytes(plan, held, budget)),
                "file_bytes": float(stored_bytes(plan, held, budget) + bias),
            }
        yield Factor((weights(name), activations(group.name)), table)


def _operations(plan: QuantizationPlan) -> Iterator[Factor]:
    multiplications = layer_multiplications(plan)
    calls = [kernel.call for kernel in plan.kernels if kernel.call.layer.name in plan.weights]
    count = Counter(call.layer.name for call in calls)
    for call in calls:
        name = call.layer.name
        read, written = plan.group_of(call.inputs[0]), plan.group_of_layer(name)
        variables = tuple(dict.fromkeys((activations(read), activations(written))))
        share = multiplications[name] / count[name]
        table = {
            (bits, *wide): {"bit_operations": share * bits * _operand_bits(wide[0], wide[-1])}
            for bits in plan.candidates[name]
            for wide in itertools.product(*_widths(variables, plan))
        }
        yield Factor((weights(name), *variables), table)


def _operand_bits(read: int, written: int) -> int:
    """Width in which a kernel reads a tensor of width `read` if it writes `written`."""
    return 16 if written == 16 else min(read, 8)


def _widths(variables: Sequence[Variable], plan: QuantizationPlan) -> list[tuple[int, ...]]:
    return [plan.groups[name].widths for _, name in variables]


def _clamps(plan: QuantizationPlan) -> Iterator[Factor]:
    """File bytes of the operators that keep results below 8 bits within their codes.

    Which kernels need one depends on their graph: it is made with every group at its narrowest.
    """
    narrowest = {name: min(group.widths) for name, group in plan.groups.items()}
    if min(narrowest.values()) >= 8:
        return
    wide = {name: max(bits, 8) for name, bits in narrowest.items()}
    narrow = plan.with_widths(activations=narrowest)
    clamped, plain = skeleton(narrow), skeleton(plan.with_widths(activations=wide))
    counts = _operators_by_layer(clamped) - _operators_by_layer(plain)
    extra = file_bytes(clamped, plan.target) - file_bytes(plain, plan.target)
    # Requantizations in front of concatenations are named after their quantizers.
    copies = {tensor.quantizer.name: plan.group_of(key) for key, tensor in narrow.tensors.items()}
    for name, group in plan.groups.items():
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

    def __init__(self, plan: QuantizationPlan) -> None:
        self._plan = plan
        self._shapes = plan.graph.shapes(plan.model)
        self._births = dict.fromkeys(plan.graph.inputs, 0)
        self._readers: dict[Key, list[tuple[int, str]]] = {}
        for index, kernel in enumerate(plan.kernels):
            self._births[kernel.result] = 2 * index + 1
            for key in dict.fromkeys(kernel.call.inputs):
                reader = 2 * index + 1, plan.group_of(kernel.result)
                self._readers.setdefault(key, []).append(reader)
        self._end = 2 * len(plan.kernels)
        self._outputs = set(plan.graph.outputs)
        self._rescaled = {
            dtype: _rescaled(plan.with_widths(activations=dict.fromkeys(plan.groups, bits)))
            for dtype, bits in (("int8", 8), ("int16", 16))
        }

    def factors(self) -> Iterator[Factor]:
        for key, birth in self._births.items():
            own, readers = self._plan.group_of(key), self._readers.get(key, [])
            names = tuple(dict.fromkeys((own, *(group for _, group in readers))))
            variables = tuple(activations(name) for name in names)
            table: dict[tuple[int, ...], dict[str, float]] = {}
            for combination in itertools.product(*_widths(variables, self._plan)):
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


def _rescaled(plan: QuantizationPlan) -> set[tuple[Key, int]]:
    """Tensors that a kernel reads in its own scale, and its step."""
    return {
        (operand.key, 2 * index + 1)
        for index, kernel in enumerate(plan.kernels)
        for operand in kernel.operands
        if operand.is_private
    }
