"""Softmax over many values, where the int8 kernels end the program.

LiteRT's reference kernel and TensorFlow Lite Micro's divide by a power of two that goes with their
sum of exponentials, and abort where it does not fit into 32 bits: from a sum of 512 on, which equal
logits of 512 classes reach at any scale. The same kernel with results of 16 bits divides by less.
So a softmax over 512 values or more becomes

    logits (int8) -> SOFTMAX -> shares of 1/65536 (int16) -> QUANTIZE -> shares of 1/256 (int8)

up to the 4095 values whose sum its accumulator holds. LiteRT's optimized kernel adds up floats and
takes any number: where that runs the files, a softmax that cannot be changed stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tflite_export import targets
from tflite_export.graph.kinds import kind_of
from tflite_export.graph.structure import SHARES, IntegerGraph, Operator, Tensor
from tflite_export.operators.rescaling import QUANTIZE

#: Runtimes whose kernel for int8 sums in floats.
_SURVIVORS = ("litert", "tflite-runtime")


def executable(graph: IntegerGraph, target: str) -> IntegerGraph:
    """`graph`, with results of 16 bits where a softmax with results of 8 may end the program.

    Raises:
        ValueError: names a softmax that no kernel of the target can execute for all inputs.
    """
    tensors, operators = dict(graph.tensors), []
    for operator in graph.operators:
        if _is_deadly(operator, tensors) and _is_split(operator, tensors, target):
            operators += _split(operator, tensors)
        else:
            operators.append(operator)
    return dataclasses.replace(graph, tensors=tensors, operators=tuple(operators))


def doomed(graph: IntegerGraph, runtime: str) -> tuple[Operator, ...]:
    """Operators of a graph that end a runtime's process for some inputs."""
    return tuple(
        operator
        for operator in graph.operators
        if _is_deadly(operator, graph.tensors)
        and not (runtime in _SURVIVORS and graph.tensors[operator.inputs[0]].dtype == "int8")
    )


def _is_deadly(operator: Operator, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the sum of exponentials of equal inputs is too much for the reference kernels."""
    given, made = (tensors[name] for name in (operator.inputs[0], operator.outputs[0]))
    most = kind_of(operator.kind).most_values.get((given.dtype, made.dtype))
    return most is not None and given.shape[-1] > most


def _is_split(operator: Operator, tensors: Mapping[str, Tensor], target: str) -> bool:
    """Whether 16 bits help; otherwise a runtime of the target survives the operator as it is."""
    given, made = (tensors[name] for name in (operator.inputs[0], operator.outputs[0]))
    most = kind_of(operator.kind).most_values
    values, limit = given.shape[-1], most["int8", "int16"]
    narrow = (given.dtype, made.dtype) == ("int8", "int8")
    lacks = targets.check_operator(target, QUANTIZE.name, activation_dtype="int16", rescales=True)
    if narrow and not lacks and values <= limit:
        return True
    if narrow and set(targets.capabilities(target).runtimes) & set(_SURVIVORS):
        return False
    allowed = limit if narrow and not lacks else most[given.dtype, made.dtype]
    raise ValueError(
        f"layer {operator.layer!r}: {operator.kind} over {values} values overflows the sums of the "
        f"kernels of target {target!r} where the values are nearly equal; allowed are {allowed}: "
        "return the logits and apply softmax to them outside of the file"
    )


def _split(operator: Operator, tensors: dict[str, Tensor]) -> list[Operator]:
    """The two operators that replace one; adds the tensor between them."""
    made = tensors[operator.outputs[0]]
    name = f"{made.name}/int16"
    while name in tensors:
        name += "_"
    tensors[name] = dataclasses.replace(
        made, name=name, dtype="int16", bits=16, quantization=SHARES
    )
    return [
        dataclasses.replace(operator, outputs=(name,)),
        Operator(QUANTIZE.name, (name,), (made.name,), operator.layer),
    ]
