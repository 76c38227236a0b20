"""Calibration of a model that is one step: sequences, run through it, as samples of single steps.

What a state can be is known only by running: the float model starts from states of zeros, as
callers do, and each step of each sequence gives one sample of all inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.config import QuantizationConfig
from tfeptq.data.samples import take
from tfeptq.plan.states import numbered_states
from tfeptq.preparation.trace import input_names

#: So many steps are run for each sample that is asked for, at most.
_STEPS_A_SAMPLE = 64
#: Sequences that are run at once.
_BATCH = 128


def single_steps(
    model: keras.Model, calibration: Any, config: QuantizationConfig, labels: Any = None
) -> Any:
    """Samples of all inputs of a model, one row a step; as given where it has no states.

    Args:
        model: functional, as the user wrote it.
        calibration: see `QuantizationConfig.states`.

    Raises:
        ValueError: a sequence of another shape than its input's with steps in front, or settings
            that do not go together with sequences.
    """
    states = numbered_states(model, config.states)
    if not states or _holds_all_inputs(model, calibration):
        return calibration
    refused = "augmentation" if config.augmentation is not None else "labels"
    if config.augmentation is not None or labels is not None:
        raise ValueError(
            f"{refused} are for samples of their own, but states= makes samples of the steps of "
            f"sequences; leave {refused} out, or pass arrays of all inputs, one row a step"
        )
    sequences = _sequences(model, set(states.values()), calibration, config)
    batches = (
        [array[begin : begin + _BATCH] for array in sequences]
        for begin in range(0, len(sequences[0]), _BATCH)
    )
    parts = [_rolled_out(model, states, batch) for batch in batches]
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _names(model: keras.Model) -> list[str]:
    known = input_names(model)
    return [known.get(id(tensor), tensor.name) for tensor in model.inputs]


def _holds_all_inputs(model: keras.Model, calibration: Any) -> bool:
    names = _names(model)
    if isinstance(calibration, Mapping):
        return set(names) <= set(calibration)
    return isinstance(calibration, (list, tuple)) and len(calibration) == len(names)


def _sequences(
    model: keras.Model, states: set[str], calibration: Any, config: QuantizationConfig
) -> list[np.ndarray]:
    """One array (n, steps, ...) for each input that is no state."""
    inputs = [
        keras.KerasTensor((None, None, *tensor.shape[1:]), dtype=tensor.dtype, name=name)
        for tensor, name in zip(model.inputs, _names(model), strict=True)
        if name not in states
    ]
    if not inputs:
        raise ValueError(f"states={config.states}: every input is a state; nothing is left to feed")
    taken = take(calibration, inputs, samples=config.samples, seed=config.seed, may_be_fewer=True)
    lengths = {array.shape[1] for array in taken.arrays}
    if len(lengths) > 1 or not min(lengths):
        raise ValueError(
            f"calibration sequences have {sorted(lengths)} steps; one length is needed"
        )
    count = max(1, _STEPS_A_SAMPLE * config.samples // lengths.pop())
    return [array[:count] for array in taken.arrays]


def _rolled_out(
    model: keras.Model, states: Mapping[int, str], sequences: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """What every input of the model is in every step, (n * steps, ...) in the model's order."""
    names, count = _names(model), len(sequences[0])
    given = [name for name in names if name not in states.values()]
    now = {
        name: np.zeros((count, *tensor.shape[1:]), np.float32)
        for name, tensor in zip(names, model.inputs, strict=True)
    }

    @tf.function(reduce_retracing=True)
    def step(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        inputs = [
            tf.cast(tensor, like.dtype) for tensor, like in zip(tensors, model.inputs, strict=True)
        ]
        structured = keras.tree.pack_sequence_as(model.input, inputs)
        return keras.tree.flatten(model(structured, training=False))

    rows: list[list[np.ndarray]] = []
    for index in range(sequences[0].shape[1]):
        now.update(zip(given, (array[:, index] for array in sequences), strict=True))
        rows.append([now[name] for name in names])
        outputs = step([tf.constant(array) for array in rows[-1]])
        now.update(
            (name, np.asarray(outputs[number], np.float32)) for number, name in states.items()
        )
    return [np.concatenate(column) for column in zip(*rows, strict=True)]
