"""TFLiteConverter's files, by which ours are measured: made, run, and compared layer by layer."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tflite_export.file.reader import parse


def convert(
    model: keras.Model, samples: Sequence[np.ndarray] | None, *, only_integers: bool = True
) -> bytes:
    """An int8 file that is calibrated on `samples`, one array a model input; without: in float.

    Args:
        only_integers: fail where an operator would stay in float.
    """
    holder = tf.Module()
    holder.variables_of_model = [variable.value for variable in model.variables]
    shapes = [tf.TensorSpec((1, *t.shape[1:]), t.dtype, name=t.name) for t in model.inputs]

    @tf.function(input_signature=shapes)
    def call(*inputs: Any) -> Any:
        fed = keras.tree.pack_sequence_as(model.input, list(inputs))
        return tf.nest.flatten(model(fed, training=False))

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [call.get_concrete_function()], holder
    )
    if samples is None:
        return converter.convert()
    typed = [array.astype(t.dtype) for array, t in zip(samples, model.inputs, strict=True)]
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [array[index : index + 1] for array in typed] for index in range(len(typed[0]))
    )
    if only_integers:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def run(content: bytes, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Its outputs as floats, one array (N, ...) each."""
    interpreter = _interpreter(content)
    rows = []
    for index in range(len(samples[0])):
        _invoke(interpreter, [array[index : index + 1] for array in samples])
        # Files list outputs in an order of their own; names end in the number of the output.
        outputs = sorted(interpreter.get_output_details(), key=lambda detail: detail["name"])
        rows.append([_floats(interpreter, detail) for detail in outputs])
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def layers(
    float_content: bytes, content: bytes, samples: Sequence[np.ndarray]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, values in the float file and in the int8 file, of the tensors that both hold."""
    files = [_interpreter(each, keeps_all=True) for each in (float_content, content)]
    computed = [_computed(each) for each in (float_content, content)]
    details = [
        {d["name"]: d for d in file.get_tensor_details() if d["name"] in names}
        for file, names in zip(files, computed, strict=True)
    ]
    shared = [
        name
        for name, detail in details[0].items()
        if name in details[1] and tuple(detail["shape"]) == tuple(details[1][name]["shape"])
    ]
    values: list[dict[str, list[np.ndarray]]] = [collections.defaultdict(list) for _ in files]
    for index in range(len(samples[0])):
        for file, known, found in zip(files, details, values, strict=True):
            _invoke(file, [array[index : index + 1] for array in samples])
            for name in shared:
                found[name].append(_floats(file, known[name]))
    for name in shared:
        want, got = (np.concatenate(found[name]) for found in values)
        if want.dtype.kind == "f":
            yield name, want, got


def float_operators(content: bytes) -> dict[str, int]:
    """Operators that compute in float, but for conversions at the ends: kind -> number."""
    model = parse(content)
    return dict(
        collections.Counter(
            operator.kind
            for operator in model.operators
            if operator.kind != "DEQUANTIZE"
            and any(model.tensors[index].type == "float32" for index in operator.outputs)
        )
    )


def _computed(content: bytes) -> set[str]:
    """Names that one tensor has which an operator computes."""
    model = parse(content)
    names = [model.tensors[index].name for op in model.operators for index in op.outputs]
    counts = collections.Counter(names)
    return {name for name in names if counts[name] == 1}


def _interpreter(content: bytes, *, keeps_all: bool = False) -> Interpreter:
    result = Interpreter(model_content=content, experimental_preserve_all_tensors=keeps_all)
    result.allocate_tensors()
    return result


def _invoke(interpreter: Interpreter, sample: Sequence[np.ndarray]) -> None:
    for detail, values in zip(interpreter.get_input_details(), sample, strict=True):
        interpreter.set_tensor(detail["index"], _given(values, detail))
    interpreter.invoke()


def _given(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Values as an input takes them; one that nothing quantizes keeps its type."""
    scale, zero = detail["quantization"]
    if not scale:
        return values.astype(detail["dtype"])
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(detail["dtype"])


def _floats(interpreter: Interpreter, detail: dict[str, Any]) -> np.ndarray:
    values, (scale, zero) = interpreter.get_tensor(detail["index"]), detail["quantization"]
    if not scale:
        return values
    return ((values.astype(np.float64) - zero) * scale).astype(np.float32)
