"""Bytes of the activations that are alive at every step, by the widths of those that share it.

One cost a step of execution, of every tensor that is alive there, copies in another integer type
included. The largest of them is the peak.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tfeptq.canonical.integer_types import activation_dtype
from tfeptq.canonical.layer_graph import Key
from tfeptq.canonical.primitives import primitive_of
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.selection.factor import Factor, Variable, constant, tabled
from tfeptq.selection.skeleton import alive_at_peak
from tfeptq.selection.variables import Variables
from tflite_export.graph.structure import IntegerGraph

#: Of a requantization and its tensor in a file, names included.
_COPY_BYTES = 130
#: Bytes of the number of a place.
_PLACE = 4
#: What the names of these costs begin with.
STEP = "activation_bytes@"


def fixed_memory(graph: IntegerGraph) -> Iterator[Factor]:
    """What is alive at the peak of a graph, whatever the widths of its weights."""
    for name, size in alive_at_peak(graph).items():
        yield constant({f"{STEP}peak": size}, name)


class Memory:
    """Bytes alive at every step: of each tensor from its kernel to its last reader.

    Every kernel has two steps: first copies of its inputs in its own integer type are written,
    unless an earlier reader has had them, and those in its own scale; then it runs.
    """

    def __init__(self, plan: QuantizationPlan, variables: Variables) -> None:
        self._variables = variables
        self._shapes = plan.graph.shapes(plan.model)
        self._births = dict.fromkeys(plan.graph.inputs, 0)
        self._readers: dict[Key, list[tuple[int, Variable]]] = {}
        for index, kernel in enumerate(plan.kernels):
            self._births[kernel.result] = 2 * index + 1
            for key in dict.fromkeys(kernel.call.inputs):
                reader = 2 * index + 1, variables.of_tensor(kernel.result)
                self._readers.setdefault(key, []).append(reader)
        self._tables = {
            (key, 2 * index + 1)
            for index, kernel in enumerate(plan.kernels)
            if primitive_of(kernel.call.layer).tabulates
            for key in kernel.call.inputs
        }
        self._end = 2 * len(plan.kernels)
        self._outputs = set(plan.graph.outputs)
        self._rescaled = {
            dtype: _rescaled(plan.with_widths(activations=_widths_of_type(plan, dtype)))
            for dtype in ("int8", "int16")
        }

    def factors(self) -> Iterator[Factor]:
        """A factor a tensor."""
        yield from map(self._of, self._births)

    def _of(self, key: Key) -> Factor:
        own, readers = self._variables.of_tensor(key), self._readers.get(key, [])
        variables = tuple(dict.fromkeys((own, *(writes for _, writes in readers))))

        def costs(*widths: int) -> dict[str, float]:
            types = dict(zip(variables, map(activation_dtype, widths), strict=True))
            reading = [(step, types[writes]) for step, writes in readers]
            return self._alive(key, self._births[key], types[own], reading)

        return tabled(variables, self._variables.widths, costs)

    def _alive(
        self, key: Key, birth: int, dtype: str, readers: Sequence[tuple[int, str]]
    ) -> dict[str, float]:
        """Step -> bytes of a tensor and of its copies, in the other type or in another scale.

        And what the copies' operators add to the file.
        """
        elements = int(np.prod(self._shapes[key]))
        direct = [step for step, reads in readers if reads == dtype]
        others = [step for step, reads in readers if reads != dtype]
        tables = [step for step, _ in readers if (key, step) in self._tables]
        # Tables read its integers as places, which are made before the first of them.
        ends = [tables[0] - 2 if step in tables else step for step in direct]
        ends += [birth, *([self._end] if key in self._outputs else [])]
        spans = []
        if others:
            # The copy is written in the step before its first reader, from the tensor itself.
            ends.append(others[0] - 1)
            spans.append((others[0] - 1, others[-1], 3 - np.dtype(dtype).itemsize))
        rescaled = [step for step in direct if (key, step) in self._rescaled[dtype]]
        spans += [(step - 1, step, np.dtype(dtype).itemsize) for step in rescaled]
        if tables:
            spans += [(tables[0] - 1, tables[0] - 1, _PLACE), (tables[0] - 1, tables[-1], _PLACE)]
        spans.append((birth, max(ends), np.dtype(dtype).itemsize))
        copies = bool(others) + len(rescaled)
        alive: dict[str, float] = {"file_bytes": _COPY_BYTES * copies}
        for first, last, size in spans:
            for step in range(first, last + 1):
                name = f"{STEP}{step}"
                alive[name] = alive.get(name, 0) + elements * size
        return alive


def _widths_of_type(plan: QuantizationPlan, dtype: str) -> dict[str, int]:
    """A candidate of an integer type for every group that has one; the others keep their width."""
    fitting = {
        name: [bits for bits in group.widths if activation_dtype(bits) == dtype]
        for name, group in plan.groups.items()
    }
    return {name: max(widths) for name, widths in fitting.items() if widths}


def _rescaled(plan: QuantizationPlan) -> set[tuple[Key, int]]:
    """Tensors that a kernel reads in its own scale, and its step."""
    return {
        (operand.key, 2 * index + 1)
        for index, kernel in enumerate(plan.kernels)
        for operand in kernel.operands
        if operand.is_private
    }
