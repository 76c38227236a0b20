"""Network-wise distillation: learns the rounding of all layers at once (EPTQ, section 4.2-4.3).

The squared error of every pre-activation, weighted by each sample's attention (SLA), plus the
rounding regularizer. Activations are quantized gradually and the rounding is hardened gradually:
short schedules need the network to train on the integers that it will ship.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfeptq.config import QuantizationConfig
from tfeptq.hessian.probes import logit_keys, weighted_calls
from tfeptq.layer_graph import Call, Key, LayerGraph
from tfeptq.model import QuantizedModel
from tfeptq.progress import StepProgress


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How the recipe changes over the `steps` of a run; every method takes a step tensor.

    Attributes:
        gradual_activations, gradual_rounding: switch the annealing off when False.
    """

    steps: int
    gradual_activations: bool = True
    gradual_rounding: bool = True

    def _progress(self, step: Any, end: float) -> Any:
        return ops.clip(ops.cast(step, "float32") / max(end * self.steps, 1.0), 0.0, 1.0)

    def float_share(self, step: Any) -> Any:
        """p of gradual activation quantization: 1 to 0, linear."""
        share = 1.0 - self._progress(step, 1.0)
        return share if self.gradual_activations else ops.zeros_like(share)

    def soft_share(self, step: Any) -> Any:
        """Share of soft rounding: 1 to 0 at 90 % of the run, linear."""
        share = 1.0 - self._progress(step, 0.9)
        return share if self.gradual_rounding else ops.ones_like(share)

    def beta(self, step: Any) -> Any:
        """Exponent of the rounding regularizer: 20 for 20 % of the run, then linear to 2."""
        warm = 0.2
        rest = (self._progress(step, 1.0) - warm) / (1.0 - warm)
        return 20.0 - 18.0 * ops.clip(rest, 0.0, 1.0)


class Distillation:
    """The loss between a float model and its quantized copy, and the step that lowers it.

    Args:
        quantized: the model that learns.
        teacher: its canonical float model.
        attention: float32 (samples, weighted calls), the scores of all samples that will be fed;
            only their mean is used here, each batch brings its own.
    """

    def __init__(
        self,
        quantized: QuantizedModel,
        teacher: keras.Model,
        attention: np.ndarray,
        config: QuantizationConfig,
    ) -> None:
        self._teacher = LayerGraph.of(teacher)
        self._student = LayerGraph.of(quantized)
        self._keys = [call.output for call in weighted_calls(self._teacher)]
        self._logits = logit_keys(teacher)
        mean = attention.mean(axis=0)
        self._normalizer = float(mean.max())
        self._layer_weight = _sum_by_layer(self._keys, mean / self._normalizer)
        self._schedule = Schedule(config.steps, config.gradual_activations, config.gradual_rounding)
        self._output_weight = config.output_loss
        self._element_attention = config.element_attention
        self._seed = config.seed
        self._regularization = 0.01 * config.regularization
        self.traces = 0

    def train_step(self, model: QuantizedModel, data: Any) -> dict[str, Any]:
        """One step of the optimizer, compiled by Keras."""
        self.traces += 1
        samples, attention = data
        step = model.optimizer.iterations
        self._set_shares(model, step)
        with tf.GradientTape() as tape:
            distillation = self._distillation_loss(tf.nest.flatten(samples), attention, step)
            rounding = self._rounding_loss(model, self._schedule.beta(step))
            loss = distillation + rounding
        variables = model.trainable_variables
        # The scale of the logits' quantizer lies behind every tensor of the loss.
        gradients = tape.gradient(
            loss,
            [variable.value for variable in variables],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        model.optimizer.apply(gradients, variables)
        return {"loss": loss, "distillation": distillation, "rounding": rounding}

    def _set_shares(self, model: QuantizedModel, step: Any) -> None:
        float_share = self._schedule.float_share(step)
        for quantizer in model.activation_quantizers:
            quantizer.float_share.assign(float_share)
        soft_share = self._schedule.soft_share(step)
        for layer in model.weighted_layers:
            layer.soft_share.assign(soft_share)

    def _distillation_loss(self, samples: list[Any], attention: Any, step: Any) -> Any:
        teacher, jacobians = self._probed_teacher(samples, step)
        student = self._student.execute(samples)
        loss = 0.0
        for index, key in enumerate(self._keys):
            error = student[key] - tf.stop_gradient(teacher[key])
            if jacobians is None:
                loss += tf.reduce_mean(attention[:, index] * mean_square_by_sample(error))
            else:
                squared = tf.square(error * tf.stop_gradient(jacobians[index]))
                loss += tf.reduce_mean(tf.reduce_sum(squared, axis=list(range(1, squared.ndim))))
        return (loss + self._output_loss(student, teacher)) / self._normalizer

    def _probed_teacher(
        self, samples: list[Any], step: Any
    ) -> tuple[dict[Key, Any], list[Any] | None]:
        """Tensors of the float model; with element attention also J'v of one Rademacher probe v."""
        if not self._element_attention:
            return self._teacher.execute(samples), None

        def watch(call: Call, _: list[Any], output: Any) -> Any:
            if call.output in self._keys:
                tape.watch(output)
            return output

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tensors = self._teacher.execute(samples, hook=watch)
            logits = [tensors[key] for key in self._logits]
            signs = [self._signs(value, step, index) for index, value in enumerate(logits)]
            total = tf.add_n([tf.reduce_sum(a * b) for a, b in zip(logits, signs, strict=True)])
        watched = [tensors[key] for key in self._keys]
        zero = tf.UnconnectedGradients.ZERO
        return tensors, tape.gradient(total, watched, unconnected_gradients=zero)

    def _signs(self, like: Any, step: Any, index: int) -> Any:
        seed = tf.stack([tf.cast(step, tf.int32), tf.constant(self._seed + index)])
        bits = tf.random.stateless_uniform(tf.shape(like), seed, 0, 2, tf.int32)
        return tf.cast(2 * bits - 1, like.dtype)

    def _output_loss(self, student: dict[Key, Any], teacher: dict[Key, Any]) -> Any:
        """Squared error of the logits, whose attention is 1, times its weight."""
        loss = 0.0
        for key in self._logits:
            error = student[key] - tf.stop_gradient(teacher[key])
            loss += tf.reduce_mean(mean_square_by_sample(error))
        return self._output_weight * loss

    def _rounding_loss(self, model: QuantizedModel, beta: Any) -> Any:
        loss = 0.0
        for layer in model.weighted_layers:
            loss += self._layer_weight[layer.name] * layer.undecided(beta)
        return self._regularization * loss


def mean_square_by_sample(error: Any) -> Any:
    """Sum over channels and mean over positions of the squared error, one value a sample."""
    per_channel = tf.reduce_sum(tf.square(error), axis=-1)
    axes = list(range(1, len(per_channel.shape)))
    return tf.reduce_mean(per_channel, axis=axes) if axes else per_channel


def _sum_by_layer(keys: list[Any], values: np.ndarray) -> dict[str, float]:
    result: dict[str, float] = {}
    for (name, _), value in zip(keys, values, strict=True):
        result[name] = result.get(name, 0.0) + float(value)
    return result


def distil(
    quantized: QuantizedModel,
    teacher: keras.Model,
    samples: Sequence[np.ndarray],
    attention: np.ndarray,
    config: QuantizationConfig,
    callbacks: Sequence[keras.callbacks.Callback] | None = None,
    backup_dir: Path | None = None,
) -> keras.callbacks.History:
    """Learns the rounding, scales and biases of `quantized` from `teacher`.

    Args:
        samples: one array a model input, float32 (N, ...).
        attention: float32 (N, weighted calls), see `sample_layer_attention`.
        backup_dir: where the optimisation is saved and resumed (`BackupAndRestore`).
    """
    _choose_variables(quantized, teacher, samples, config)
    quantized.attach(Distillation(quantized, teacher, attention, config))
    quantized.compile(optimizer=_optimizer(config), jit_compile=_gains_from_xla(quantized))
    # Variables created inside the first step would have it traced and compiled twice.
    quantized.optimizer.build(quantized.trainable_variables)
    epochs = min(20, config.steps)
    steps_per_epoch = -(-config.steps // epochs)
    watchers = [StepProgress(steps_per_epoch * epochs, "distillation"), *(callbacks or ())]
    if backup_dir is not None:
        watchers.append(keras.callbacks.BackupAndRestore(str(backup_dir)))
    history = quantized.fit(
        _dataset(samples, attention, config),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        callbacks=watchers,
        shuffle=False,
        verbose=0,
    )
    quantized.attach(None)
    return history


def _gains_from_xla(quantized: QuantizedModel) -> bool:
    """XLA's CPU backend runs depthwise gradients on one thread: 12 times slower on DS-CNN."""
    has_depthwise = any(
        isinstance(layer.layer, keras.layers.DepthwiseConv2D) for layer in quantized.weighted_layers
    )
    return not has_depthwise or bool(tf.config.list_logical_devices("GPU"))


def _optimizer(config: QuantizationConfig) -> keras.optimizers.Optimizer:
    warmup = max(config.steps // 50, 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(config.steps - warmup, 1), warmup_target=config.learning_rate, warmup_steps=warmup
    )
    return keras.optimizers.Adam(schedule)


def _dataset(
    samples: Sequence[np.ndarray], attention: np.ndarray, config: QuantizationConfig
) -> tf.data.Dataset:
    count = len(attention)
    dataset = tf.data.Dataset.from_tensor_slices((tuple(samples), attention))
    dataset = dataset.shuffle(count, seed=config.seed, reshuffle_each_iteration=True).repeat()
    return dataset.batch(min(config.batch_size, count), drop_remainder=True).prefetch(2)


def _choose_variables(
    quantized: QuantizedModel,
    teacher: keras.Model,
    samples: Sequence[np.ndarray],
    config: QuantizationConfig,
) -> None:
    """Marks what is learned, and in which units: one learning rate suits all."""
    graph = LayerGraph.of(teacher)
    tensors = graph.execute([tf.constant(array[:32]) for array in samples])
    for call in weighted_calls(graph):
        layer = quantized.get_layer(call.layer.name)
        rms = float(tf.sqrt(tf.reduce_mean(tf.square(tensors[call.output]))))
        layer.set_units(
            rounding=config.rounding_learning_rate / config.learning_rate, bias=max(rms, 1e-6)
        )
        layer.log_scale.trainable = config.train_scales
        layer.bias_offset.trainable = config.train_biases
    for quantizer in quantized.activation_quantizers:
        quantizer.log_scale.trainable = config.train_scales and quantizer.fixed is None
