"""Softmax over many values: where int8 kernels end the program, int16 kernels do not.

The int8 kernels of LiteRT's reference and of TensorFlow Lite Micro abort as soon as their sum of
exponentials reaches 512, which equal logits of 512 classes do at any scale. LiteRT's optimized
kernel adds up floats and takes any number: where that runs the files, they keep it. For the other
targets a softmax over more values becomes

    logits -> QUANTIZE to int16, exactly -> SOFTMAX in int16 -> QUANTIZE to int8

The int16 kernels count no exponential as less than 2^-15. Values that are far below the largest
take so much from it each: its share can be too small by 3 % of itself at 1000 values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from tflite_export import limits, targets
from tflite_export.graph import IntegerGraph, Operator, Quantization, Tensor

#: Runtimes whose int8 kernel sums in floats.
_SURVIVORS = ("litert",)
_WIDE_SCALE = np.float32(1 / 32768)


def executable(graph: IntegerGraph, target: str) -> IntegerGraph:
    """`graph`, or the same with int16 kernels where int8 ones may end the program.

    Raises:
        ValueError: names a softmax that no kernel of the target can execute for any input.
    """
    tensors, operators = dict(graph.tensors), []
    for operator in graph.operators:
        if _is_too_wide(operator, tensors) and not _is_survived(operator, tensors, target):
            _refuse_wider(operator, tensors, target)
            operators += _widened(operator, tensors)
        else:
            operators.append(operator)
    return dataclasses.replace(graph, tensors=tensors, operators=tuple(operators))


def notes(graph: IntegerGraph, target: str) -> tuple[str, ...]:
    """What `executable` changes in a graph, one sentence each."""
    return tuple(
        f"softmax {operator.layer!r} over {graph.tensors[operator.inputs[0]].shape[-1]} values "
        "computes in int16: int8 kernels end the program where the values are nearly equal; the "
        "largest share can be a few percent of itself too small"
        for operator in graph.operators
        if _is_too_wide(operator, graph.tensors)
        and not _is_survived(operator, graph.tensors, target)
    )


def doomed(graph: IntegerGraph, runtime: str) -> tuple[Operator, ...]:
    """Operators of a graph that end a runtime's process for some inputs."""
    if runtime in _SURVIVORS:
        return ()
    return tuple(op for op in graph.operators if _is_too_wide(op, graph.tensors))


def without(graph: IntegerGraph, operators: Iterable[Operator]) -> IntegerGraph:
    """The part of a graph that depends on none of some operators, with all that it makes."""
    lost = {name for operator in operators for name in operator.outputs}
    kept = []
    for operator in graph.operators:
        if lost.intersection((*operator.inputs, *operator.outputs)):
            lost.update(operator.outputs)
        else:
            kept.append(operator)
    read = {name for operator in kept for name in operator.inputs}
    ends = [name for operator in kept for name in operator.outputs if name not in read]
    names = {*read, *ends, *(name for _, name in graph.inputs)}
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name in names}
    outputs = tuple((name, name) for name in ends)
    return dataclasses.replace(graph, tensors=tensors, operators=tuple(kept), outputs=outputs)


def _is_too_wide(operator: Operator, tensors: Mapping[str, Tensor]) -> bool:
    if operator.kind != "SOFTMAX":
        return False
    given = tensors[operator.inputs[0]]
    return given.shape[-1] > limits.SOFTMAX_VALUES.get(given.dtype, np.inf)


def _is_survived(operator: Operator, tensors: Mapping[str, Tensor], target: str) -> bool:
    """Whether the kernel that runs on the target takes any number of values."""
    runtimes = targets.capabilities(target).runtimes
    return tensors[operator.inputs[0]].dtype == "int8" and bool(set(runtimes) & set(_SURVIVORS))


def _refuse_wider(operator: Operator, tensors: Mapping[str, Tensor], target: str) -> None:
    """What int16 kernels cannot take over."""
    given, limit = tensors[operator.inputs[0]], limits.SOFTMAX_VALUES["int16"]
    missing = any(
        targets.check_operator(target, kind, activation_dtype="int16", rescales=True)
        for kind in ("SOFTMAX", "QUANTIZE")
    )
    if missing or given.shape[-1] > limit:
        raise ValueError(
            f"layer {operator.layer!r}: SOFTMAX over {given.shape[-1]} values overflows the sums "
            f"of the kernels of target {target!r} where the values are nearly equal; allowed are "
            f"{limits.SOFTMAX_VALUES['int8'] if missing else limit}: return the logits and apply "
            "softmax to them outside of the file"
        )


def _widened(operator: Operator, tensors: dict[str, Tensor]) -> list[Operator]:
    """The three operators that replace one; adds their tensors."""
    given, made = (tensors[name] for name in (operator.inputs[0], operator.outputs[0]))
    # In the same scale every int8 code has an int16 one.
    scale = np.minimum(given.quantization.scale, limits.INPUT_SCALES["SOFTMAX"]["int16"][1])
    wide = [
        dataclasses.replace(
            like,
            name=_free(f"{like.name}/int16", tensors),
            dtype="int16",
            bits=16,
            quantization=Quantization(np.asarray(values, np.float32)),
        )
        for like, values in ((given, scale), (made, _WIDE_SCALE))
    ]
    tensors.update({tensor.name: tensor for tensor in wide})
    source, result = (tensor.name for tensor in wide)
    return [
        Operator("QUANTIZE", (given.name,), (source,), operator.layer),
        dataclasses.replace(operator, inputs=(source,), outputs=(result,)),
        Operator("QUANTIZE", (result,), (made.name,), operator.layer),
    ]


def _free(name: str, tensors: dict[str, Tensor]) -> str:
    candidate, index = name, 1
    while candidate in tensors:
        candidate, index = f"{name}_{index}", index + 1
    return candidate
