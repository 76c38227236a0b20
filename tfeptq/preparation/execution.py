"""Running the original model, as a whole and call by call."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.preparation.calls import understood
from tfeptq.preparation.trace import Symbol, Trace, is_symbol


@dataclasses.dataclass(frozen=True)
class ValuesOfCall:
    """What one call of a model computes; `symbols` are the tensors, in order."""

    operation: keras.Operation
    symbols: tuple[Symbol, ...]
    values: list[np.ndarray]


def outputs_of(
    model: keras.Model,
    inputs: Sequence[np.ndarray],
    variables: Sequence[Sequence[np.ndarray]] | None = None,
) -> list[np.ndarray]:
    """Outputs in inference mode, float64, of a functional model with flat inputs and outputs.

    Args:
        inputs: one array a model input, cast to its type.
        variables: values for the trainable and the other variables, instead of their own.

    Raises:
        ValueError: the model cannot compute the inputs, neither together nor one by one.
    """
    try:
        return _run(model, inputs, variables)
    except Exception:
        # Some models take one sample at a time: a constant of batch 1 in a concatenation.
        pass
    try:
        rows = [
            _run(model, [array[index : index + 1] for array in inputs], variables)
            for index in range(len(inputs[0]))
        ]
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"model {model.name!r} cannot compute its calibration samples "
            f"({type(error).__name__}: {reason[0] if reason else ''}); check that "
            "model.predict takes them"
        ) from error
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def _run(
    model: keras.Model,
    inputs: Sequence[np.ndarray],
    variables: Sequence[Sequence[np.ndarray]] | None,
) -> list[np.ndarray]:
    tensors = [
        keras.ops.convert_to_tensor(array.astype(_numpy_type(tensor)), tensor.dtype)
        for array, tensor in zip(inputs, model.inputs, strict=True)
    ]
    given = tensors if len(tensors) > 1 else tensors[0]
    if variables is None:
        outputs = model(given, training=False)
    else:
        outputs, _ = model.stateless_call(*variables, given, training=False)
    return [_array(output) for output in keras.tree.flatten(outputs)]


def call_values(traced: Trace, inputs: Sequence[np.ndarray]) -> Iterator[ValuesOfCall]:
    """Runs a model call by call, in inference mode."""
    tensors = {
        given.symbol: keras.ops.convert_to_tensor(array, given.dtype)
        for given, array in zip(traced.inputs, inputs, strict=True)
    }

    def filled(argument: Any) -> Any:
        return tensors[argument] if is_symbol(argument) else argument

    for call in traced.calls:
        arguments, keywords = keras.tree.map_structure(
            filled, (call.arguments, dict(call.keywords))
        )
        keywords = understood(call.operation.call, keywords)
        outputs = keras.tree.flatten(call.operation(*arguments, **keywords))
        tensors.update(zip(call.outputs, outputs, strict=True))
        yield ValuesOfCall(call.operation, call.outputs, [_array(output) for output in outputs])


def _numpy_type(tensor: Any) -> Any:
    return np.float32 if keras.backend.is_float_dtype(tensor.dtype) else str(tensor.dtype)


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor)).astype(np.float64)
