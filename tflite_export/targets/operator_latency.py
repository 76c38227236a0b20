"""Time of every operator of a graph by itself, in LiteRT on this computer.

Each operator becomes a file of its own, executed by the kernel that would execute it in the whole
file. Only `invoke` is timed: the copies of its inputs belong to no operator.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

from tflite_export.file.writer import write
from tflite_export.graph.structure import IntegerGraph, Operator
from tflite_export.graph.validation import validated
from tflite_export.runtimes import litert
from tflite_export.runtimes.isolation import guarded, heartbeat
from tflite_export.targets.containers import plan_storage

_WARM_UP_RUNS = 3


@dataclasses.dataclass(frozen=True)
class OperatorTime:
    """Milliseconds of one operator in one inference.

    Attributes:
        layer: Keras layer that the operator comes from.
    """

    layer: str
    kind: str
    milliseconds: float


class Stopwatch:
    """Times operators; what differs in nothing that a kernel sees is timed once.

    Args:
        target: decides the containers of weights.
        runs: inferences an operator, of which the fastest counts: what is slower was disturbed.
        seconds: no further inference after this time.
    """

    def __init__(self, target: str, *, runs: int = 50, seconds: float = 0.5) -> None:
        self._target, self._runs, self._seconds = target, runs, seconds
        self._known: dict[object, float] = {}

    def __call__(self, graph: IntegerGraph) -> list[OperatorTime]:
        """Times of all operators of `graph`, in order."""
        storage = plan_storage(graph, self._target)
        return [
            OperatorTime(
                operator.layer, operator.kind, self._milliseconds(graph, operator, storage)
            )
            for operator in graph.operators
        ]

    def _milliseconds(
        self, graph: IntegerGraph, operator: Operator, storage: Mapping[str, str]
    ) -> float:
        key = _description(graph, operator, storage)
        if key not in self._known:
            names = [name for name in operator.inputs if name in storage]
            content = write(alone(graph, operator), {name: storage[name] for name in names})
            self._known[key] = self._timed(content)
        return self._known[key]

    def _timed(self, content: bytes) -> float:
        return guarded(content, "litert", _milliseconds, content, self._runs, self._seconds)


def _milliseconds(content: bytes, runs: int, seconds: float) -> float:
    """Milliseconds of the fastest inference, in a worker."""
    interpreter = litert.interpreter(content)
    for _ in range(_WARM_UP_RUNS):
        interpreter.invoke()
    best, end = float("inf"), time.perf_counter() + seconds
    for _ in range(runs):
        heartbeat()
        begin = time.perf_counter()
        interpreter.invoke()
        now = time.perf_counter()
        best = min(best, now - begin)
        if now > end:
            break
    return 1000 * best


def alone(graph: IntegerGraph, operator: Operator) -> IntegerGraph:
    """The graph of one operator of `graph`."""
    names = dict.fromkeys((*operator.inputs, *operator.outputs))
    tensors = {name: graph.tensors[name] for name in names}
    fed = dict.fromkeys(name for name in operator.inputs if not tensors[name].is_constant)
    inputs = tuple((name, name) for name in fed)
    outputs = tuple((name, name) for name in operator.outputs)
    return validated(IntegerGraph(graph.name, tensors, (operator,), inputs, outputs))


def _description(graph: IntegerGraph, operator: Operator, storage: Mapping[str, str]) -> object:
    """What decides the kernel and its work: not the values of weights."""
    tensors = [graph.tensors[name] for name in (*operator.inputs, *operator.outputs)]
    described = tuple(
        (tensor.shape, storage.get(tensor.name, tensor.dtype), tensor.quantization.per_channel)
        for tensor in tensors
    )
    return (
        operator.kind,
        described,
        tuple(sorted((k, str(v)) for k, v in operator.attributes.items())),
    )
