"""The step of the distillation whose gradients workers compute, each of a part of the batch.

A batch is cut into the same parts however many workers there are, and the gradients of the parts
are added up in their order: so any number of workers learns the same. One process sums over the
whole batch at once, in another order: what it learns differs in its last digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.config import QuantizationConfig
from tfeptq.data.shares import Run
from tfeptq.hessian.output_units import OutputUnits
from tfeptq.model import QuantizedModel
from tfeptq.quantized.learned import choose_learned
from tfeptq.rounding.training_step import Distillation

#: Parts of a batch, at least, and samples of a part, at most.
_PARTS, _LARGEST = 4, 16
#: Step, and values of the trainable variables.
State = tuple[int, list[np.ndarray]]


def parts_of(batch: np.ndarray) -> list[np.ndarray]:
    """Even parts of a batch, whose number depends on its size only."""
    count = max(_PARTS, -(-len(batch) // _LARGEST))
    return np.array_split(batch, min(count, len(batch)))


class SharedStep:
    """A training step for `QuantizedModel.attach`; it is fed the numbers of samples.

    Args:
        run: computes `gradients_of_parts`.
        step: the same step in this process, which knows the schedule.
    """

    def __init__(self, run: Run, step: Distillation) -> None:
        self._run, self._step = run, step
        self._apply: Callable[[list[Any]], None] | None = None

    def train_step(self, model: QuantizedModel, data: Any) -> dict[str, Any]:
        parts, optimizer = parts_of(np.asarray(data)), model.optimizer
        variables = model.trainable_variables
        values = [keras.ops.convert_to_numpy(variable) for variable in variables]
        state = int(optimizer.iterations.numpy()), values
        found = self._run(parts, state)
        sums: list[np.ndarray] = []
        logs: dict[str, float] = {}
        for part, (gradients, losses) in zip(parts, found, strict=True):
            weight = np.float32(len(part) / len(data))
            weighted = [weight * gradient for gradient in gradients]
            sums = [a + b for a, b in zip(sums, weighted, strict=True)] if sums else weighted
            for name, loss in losses.items():
                logs[name] = logs.get(name, 0.0) + float(weight) * loss
        self._step.set_shares(optimizer.iterations)
        if self._apply is None:
            self._apply = tf.function(
                lambda arrays: optimizer.apply(arrays, variables), autograph=False
            )
        self._apply([tf.constant(array) for array in sums])
        return logs


def gradients_of_parts(
    quantized: QuantizedModel,
    teacher: keras.Model,
    samples: Sequence[np.ndarray],
    attention: Sequence[np.ndarray],
    units: OutputUnits | None,
    config: QuantizationConfig,
    uses_xla: bool,
) -> Callable[[np.ndarray, State], tuple[list[np.ndarray], dict[str, float]]]:
    """Computes gradients and losses of the samples of some numbers."""
    choose_learned(quantized, config)
    step = Distillation(quantized, teacher, attention, config, is_compiled=uses_xla, units=units)
    remembered = step.teacher.remember(samples, batch_size=config.batch_size)
    columns = tuple(samples), tuple(attention)
    variables = quantized.trainable_variables

    gradients = tf.function(step.gradients, autograph=False)

    def of_part(part: np.ndarray, state: State) -> tuple[list[np.ndarray], dict[str, float]]:
        number, values = state
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        data = tf.nest.map_structure(lambda column: tf.constant(np.asarray(column)[part]), columns)
        kept = () if remembered is None else tuple(remembered.rows(tf.constant(part, tf.int32)))
        found, losses = gradients((*data, kept), tf.constant(number, tf.int64))
        return [each.numpy() for each in found], {k: float(v) for k, v in losses.items()}

    return of_part
