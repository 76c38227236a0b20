"""The step that the distillation is made of: its loss, and what it changes.

The squared error of every pre-activation and of every product of two tensors, weighted by each
sample's attention, plus the rounding regularizer (EPTQ, section 4.2-4.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.config import QuantizationConfig
from tfeptq.hessian.output_units import OutputUnits
from tfeptq.model import QuantizedModel
from tfeptq.quantized import fused
from tfeptq.quantized.correspondence import corresponding_tensors
from tfeptq.rounding.losses import spread, weighted_square
from tfeptq.rounding.quick_graph import only_quantizers, quick_graph, with_kernels
from tfeptq.rounding.schedule import Schedule
from tfeptq.rounding.soft_rounding import soft_rounding
from tfeptq.rounding.teacher import Teacher


class Distillation:
    """The loss between a float model and its quantized copy, and the step that lowers it.

    `gradients(data, step)` are those of the loss of a batch in all trainable variables, with its
    parts; `data` are samples, attention scores, and the teacher's tensors (computed where there are
    none), `step` is how many were done.

    Args:
        quantized: the model that learns.
        teacher: its canonical float model.
        units: in which the outputs are compared; None: as they are.
        attention: scores of all samples that will be fed, one float32 array (samples, channels) or
            (samples, 1) for each compared call; only means are used, each batch brings its own.
        is_compiled: compiles losses and gradients whole, by XLA; otherwise the loss of a tensor is
            one kernel, see `tfeptq.quantized.fused`.

    Attributes:
        traces: how often the gradients were traced.
    """

    def __init__(
        self,
        quantized: QuantizedModel,
        teacher: keras.Model,
        attention: Sequence[np.ndarray],
        config: QuantizationConfig,
        *,
        is_compiled: bool = False,
        units: OutputUnits | None = None,
    ) -> None:
        self.teacher = Teacher(teacher)
        self._quantized = quantized
        graph = LayerGraph.of(quantized)
        self._counterparts = corresponding_tensors(LayerGraph.of(teacher), graph)
        read = [self._counterparts[key] for key in self.teacher.logits]
        self._student = quick_graph(graph, read)
        self._quantizers = {} if is_compiled else only_quantizers(self._student, read)
        mean = np.array([scores.max(axis=-1).mean() for scores in attention])
        # Where no output moves, behind a ReLU that is dead on all samples, there are no shares.
        self._normalizer = float(mean.max()) or 1.0
        self._layer_weight = _sum_by_layer(self.teacher.compared, mean / self._normalizer)
        self._schedule = Schedule(config.steps, config.gradual_activations, config.gradual_rounding)
        self._output_weight = config.output_loss
        ones = [np.ones((1, 1), np.float32)] * len(self.teacher.logits)
        self._output_weights = ones if units is None else units.weights
        self._sums_positions = config.sample_layer_attention and config.channel_attention
        self._regularization = 0.01 * config.regularization
        self._is_compiled = is_compiled
        self.traces = 0
        # Not the optimizer with them: in a kernel a variable it takes as long as operator by
        # operator, and as long to compile as all the rest.
        self.gradients = (
            tf.function(self._gradients, jit_compile=True, autograph=False)
            if is_compiled
            else self._gradients
        )

    def train_step(self, model: QuantizedModel, data: Any) -> dict[str, Any]:
        """One step of the optimizer, traced by Keras.

        Args:
            data: see `gradients`.
        """
        step = tf.convert_to_tensor(model.optimizer.iterations)
        gradients, losses = self.gradients(data, step)
        model.optimizer.apply(gradients, model.trainable_variables)
        return losses

    def _gradients(self, data: Any, step: Any) -> tuple[list[Any], dict[str, Any]]:
        self.traces += 1
        model = self._quantized
        samples, attention, remembered = data
        samples = tf.nest.flatten(samples)
        teacher = self.teacher.named(remembered or self.teacher.tensors(samples))
        self.set_shares(step)
        with tf.GradientTape() as tape:
            kernels, undecided = soft_rounding(
                model.weighted_layers, self._layer_weight, self._schedule.beta(step)
            )
            rounding = self._regularization * undecided
            student = with_kernels(self._student, kernels)
            distillation = self._distillation_loss(student, samples, attention, teacher)
            loss = distillation + rounding
            # Gradients of replicas are added up.
            share = loss / tf.distribute.get_strategy().num_replicas_in_sync
        variables = model.trainable_variables
        # The scale of the logits' quantizer lies behind every tensor of the loss.
        gradients = tape.gradient(
            share,
            [variable.value for variable in variables],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return gradients, {"loss": loss, "distillation": distillation, "rounding": rounding}

    def set_shares(self, step: Any) -> None:
        """How soft rounding, and how float activations, are in a step."""
        float_share = self._schedule.float_share(step)
        for quantizer in self._quantized.activation_quantizers:
            quantizer.float_share.assign(float_share)
        soft_share = self._schedule.soft_share(step)
        for layer in self._quantized.weighted_layers:
            layer.soft_share.assign(soft_share)

    def _distillation_loss(
        self,
        student: LayerGraph,
        samples: list[Any],
        attention: Sequence[Any],
        teacher: dict[Key, Any],
    ) -> Any:
        pairs = zip(self.teacher.compared, attention, strict=True)
        wanted = {self._counterparts[key]: (teacher[key], scores) for key, scores in pairs}
        losses = []

        def compare(call: Call, arguments: list[Any], output: Any) -> Any:
            if (key := self._quantizers.get(call.output)) in wanted:
                values, ends = arguments[0], call.options.get("ends")
                targets, scores = wanted[key]
                weights = spread(scores, values.shape, sums_positions=self._sums_positions)
                output, loss = call.layer.compared(values, targets, weights, ends=ends)
            elif call.output in wanted and call.output not in self._quantizers.values():
                output, loss = self._compared(output, *wanted[call.output])
            else:
                return output
            losses.append(loss)
            return output

        tensors = student.execute(samples, hook=compare)
        logits = {key: tensors[self._counterparts[key]] for key in self.teacher.logits}
        return (self._output_loss(logits, teacher) + sum(losses)) / self._normalizer

    def _compared(self, values: Any, targets: Any, scores: Any) -> tuple[Any, Any]:
        """The values to go on with, and their squared error."""
        if self._is_compiled:
            error = values - tf.stop_gradient(targets)
            return values, weighted_square(error, scores, sums_positions=self._sums_positions)
        weights = spread(scores, values.shape, sums_positions=self._sums_positions)
        return fused.compared(values, targets, weights)

    def _output_loss(self, student: dict[Key, Any], teacher: dict[Key, Any]) -> Any:
        """Squared error of the logits, whose attention is 1, times its weight."""
        loss = 0.0
        for key, weights in zip(self.teacher.logits, self._output_weights, strict=True):
            error = student[key] - tf.stop_gradient(teacher[key])
            loss += weighted_square(error, tf.constant(weights))
        return self._output_weight * loss


def _sum_by_layer(keys: list[Any], values: np.ndarray) -> dict[str, float]:
    result: dict[str, float] = {}
    for (name, _), value in zip(keys, values, strict=True):
        result[name] = result.get(name, 0.0) + float(value)
    return result
