"""How much the integer reference computes: bounded by what a graph declares, before it begins."""

from __future__ import annotations

import math

from tflite_export.graph.case import Case
from tflite_export.graph.structure import IntegerGraph

#: Elements of one tensor of one sample, with the padding of its windows: 128 MiB in int64.
LARGEST_TENSOR = 2**24
#: Multiplications of one operator on one sample: minutes.
MOST_MULTIPLICATIONS = 2**38
#: Elements of a tensor that all samples of a run may have together.
_AT_ONCE = 2**22


def samples_at_once(graph: IntegerGraph) -> int:
    """Samples of a validated graph that fit into memory together.

    Raises:
        ValueError: an operator is too large for a reference that is written for clarity.
    """
    largest = 1
    for operator in graph.operators:
        case = Case.of(operator, graph.tensors)
        sizes = [math.prod(tensor.shape) for tensor in (*case.inputs, case.output)]
        elements = max(case.kind.scratch(case) if case.kind.scratch else 0, *sizes)
        work = case.kind.multiplications(case) if case.kind.multiplications else max(sizes)
        if elements > LARGEST_TENSOR or work > MOST_MULTIPLICATIONS:
            raise ValueError(
                f"{operator.where} needs a tensor of "
                f"{elements} elements and {work} multiplications; the integer reference takes "
                f"{LARGEST_TENSOR} and {MOST_MULTIPLICATIONS}"
            )
        largest = max(largest, elements)
    return max(_AT_ONCE // largest, 1)
