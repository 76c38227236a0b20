"""Integers that the inputs of a graph may take.

Of an input that numbers rows, every place may go into another table: parts of it are cut out, put
together and counted from another row on before tables are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tflite_export.graph.kinds import kind_of, operand
from tflite_export.graph.places import counting
from tflite_export.graph.structure import IntegerGraph, Operator
from tflite_export.runtimes.reference import run_operator


def input_ranges(graph: IntegerGraph) -> list[tuple[np.ndarray, np.ndarray]]:
    """Lowest and highest integer of each place of each input that all operators take.

    Of its type; those that choose from a table; those that are not negative.
    """
    names = [name for _, name in graph.inputs]
    sizes = [int(np.prod(graph.tensors[name].shape)) for name in names]
    low, high = _ends(graph, names, sizes, "min"), _ends(graph, names, sizes, "max")
    places = _Places.of(graph, names, sizes)
    for operator in graph.operators:
        kind = kind_of(operator.kind)
        for role, (table, axis) in kind.indexes.items():
            read, place = operand(operator, role), operand(operator, table)
            if read in places.of_tensor and place is not None:
                where, added = places.of_tensor[read].ravel(), places.added[read].ravel()
                np.maximum.at(low, where, -added)
                np.minimum.at(high, where, graph.tensors[place].shape[axis] - 1 - added)
    ends = np.cumsum(sizes)[:-1]
    return [
        (least.reshape(graph.tensors[name].shape), most.reshape(graph.tensors[name].shape))
        for name, least, most in zip(names, np.split(low, ends), np.split(high, ends), strict=True)
    ]


def random_samples(
    graph: IntegerGraph, count: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Integers over the whole range of each input."""
    arrays = []
    for (_, name), (low, high) in zip(graph.inputs, input_ranges(graph), strict=True):
        tensor = graph.tensors[name]
        if low.min() == low.max() and high.min() == high.max():
            # NumPy draws many numbers from one range at once.
            low, high = low.flat[0], high.flat[0]
        values = generator.integers(low, high + 1, (count, *tensor.shape[1:]))
        arrays.append(values.astype(tensor.dtype))
    return arrays


def _ends(graph: IntegerGraph, names: Sequence[str], sizes: Sequence[int], end: str) -> np.ndarray:
    pairs = zip(names, sizes, strict=True)
    return np.concatenate([np.full(size, _end(graph, name, end)) for name, size in pairs])


def _end(graph: IntegerGraph, name: str, end: str) -> int:
    """The lowest or highest integer of an input's type that kernels do not refuse."""
    tensor = graph.tensors[name]
    found = int(getattr(np.iinfo(tensor.dtype), end))
    for operator in graph.operators:
        if name in (operand(operator, role) for role in kind_of(operator.kind).positive):
            found = max(found, tensor.quantization.zero_point)
    return found


class _Places:
    """Which number of all inputs each number of a tensor is, and what is added to it.

    Attributes:
        of_tensor, added: tensor name -> an array in its shape.
    """

    def __init__(self, of_tensor: Mapping[str, np.ndarray], added: Mapping[str, np.ndarray]):
        self.of_tensor = {name: of_tensor[name] - added[name] for name in added}
        self.added = added

    @classmethod
    def of(cls, graph: IntegerGraph, names: Sequence[str], sizes: Sequence[int]) -> _Places:
        parts = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
        numbers = {
            name: part.reshape(graph.tensors[name].shape)
            for name, part in zip(names, parts, strict=True)
        }
        zeros = {name: np.zeros_like(array) for name, array in numbers.items()}
        return cls(_moved(graph, numbers), _moved(graph, zeros))


def _moved(graph: IntegerGraph, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inputs' values, and what operators that count make of them."""
    known = dict(values)
    for operator in counting(graph):
        arrays = [_array(graph, name, known) for name in operator.inputs]
        if all(array is not None for array in arrays) and _has_one_source(graph, operator):
            found = [array for array in arrays if array is not None]
            known[operator.outputs[0]] = run_operator(operator, graph.tensors, found)
    return known


def _array(graph: IntegerGraph, name: str, known: Mapping[str, np.ndarray]) -> np.ndarray | None:
    data = graph.tensors[name].data
    return known.get(name) if data is None else data


def _has_one_source(graph: IntegerGraph, operator: Operator) -> bool:
    """Whether each number that it writes is made of one: moved, or a constant added to it."""
    computed = [name for name in operator.inputs if not graph.tensors[name].is_constant]
    return kind_of(operator.kind).ties or len(computed) == 1
