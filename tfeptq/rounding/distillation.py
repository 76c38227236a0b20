"""Network-wise distillation: learns the rounding of all layers at once (EPTQ, section 4.2-4.3).

The squared error of every pre-activation, weighted by each sample's attention, plus the rounding
regularizer. Activations are quantized gradually and the rounding is hardened gradually:
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

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.config import QuantizationConfig
from tfeptq.data.memory import fitting_batch
from tfeptq.hessian.probes import weighted_calls
from tfeptq.model import QuantizedModel
from tfeptq.progress import StepProgress
from tfeptq.quantized import fused
from tfeptq.quantized.averaging import QuantizedMean
from tfeptq.quantized.borders import Narrowing
from tfeptq.quantized.correspondence import corresponding_tensors
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedWeights
from tfeptq.rounding.backup import TrainingBackup
from tfeptq.rounding.teacher import Teacher

#: Logarithm of what a scale may have changed by: no training that converges comes near it.
_LARGEST_FACTOR = 30.0


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
        attention: scores of all samples that will be fed, one float32 array (samples, channels) or
            (samples, 1) for each weighted call; only means are used, each batch brings its own.
        is_fused: fake-quantizes a tensor, and computes its loss, in one kernel, see
            `tfeptq.quantized.fused`.
    """

    def __init__(
        self,
        quantized: QuantizedModel,
        teacher: keras.Model,
        attention: Sequence[np.ndarray],
        config: QuantizationConfig,
        *,
        is_fused: bool = False,
    ) -> None:
        self.teacher = Teacher(teacher)
        self._student = _quick_calls(LayerGraph.of(quantized), is_fused=is_fused)
        self._counterparts = corresponding_tensors(LayerGraph.of(teacher), self._student)
        mean = np.array([scores.max(axis=-1).mean() for scores in attention])
        self._normalizer = float(mean.max())
        self._layer_weight = _sum_by_layer(self.teacher.weighted, mean / self._normalizer)
        self._schedule = Schedule(config.steps, config.gradual_activations, config.gradual_rounding)
        self._output_weight = config.output_loss
        self._sums_positions = config.sample_layer_attention and config.channel_attention
        self._regularization = 0.01 * config.regularization
        self._is_fused = is_fused
        self.traces = 0

    def train_step(self, model: QuantizedModel, data: Any) -> dict[str, Any]:
        """One step of the optimizer, compiled by Keras.

        Args:
            data: samples, attention scores, and the teacher's tensors; where there are none of
                these, they are computed.
        """
        self.traces += 1
        samples, attention, remembered = data
        samples = tf.nest.flatten(samples)
        teacher = self.teacher.named(remembered or self.teacher.tensors(samples))
        step = model.optimizer.iterations
        self._set_shares(model, step)
        with tf.GradientTape() as tape:
            distillation = self._distillation_loss(samples, attention, teacher)
            rounding = self._rounding_loss(model, self._schedule.beta(step))
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
        model.optimizer.apply(gradients, variables)
        return {"loss": loss, "distillation": distillation, "rounding": rounding}

    def _set_shares(self, model: QuantizedModel, step: Any) -> None:
        float_share = self._schedule.float_share(step)
        for quantizer in model.activation_quantizers:
            quantizer.float_share.assign(float_share)
        soft_share = self._schedule.soft_share(step)
        for layer in model.weighted_layers:
            layer.soft_share.assign(soft_share)

    def _distillation_loss(
        self, samples: list[Any], attention: Sequence[Any], teacher: dict[Key, Any]
    ) -> Any:
        tensors = self._student.execute(samples)
        student = {key: tensors[other] for key, other in self._counterparts.items()}
        loss = self._output_loss(student, teacher)
        for key, scores in zip(self.teacher.weighted, attention, strict=True):
            loss += self._weighted_square(student[key], teacher[key], scores)
        return loss / self._normalizer

    def _weighted_square(self, values: Any, targets: Any, scores: Any) -> Any:
        if self._is_fused:
            weights = spread(scores, values.shape, sums_positions=self._sums_positions)
            return fused.weighted_square(values, targets, weights)
        error = values - tf.stop_gradient(targets)
        return weighted_square(error, scores, sums_positions=self._sums_positions)

    def _output_loss(self, student: dict[Key, Any], teacher: dict[Key, Any]) -> Any:
        """Squared error of the logits, whose attention is 1, times its weight."""
        loss = 0.0
        for key in self.teacher.logits:
            error = student[key] - tf.stop_gradient(teacher[key])
            loss += weighted_square(error, tf.ones([1, 1]))
        return self._output_weight * loss

    def _rounding_loss(self, model: QuantizedModel, beta: Any) -> Any:
        loss = 0.0
        for layer in model.weighted_layers:
            loss += self._layer_weight[layer.name] * layer.undecided(beta)
        return self._regularization * loss


def weighted_square(error: Any, scores: Any, *, sums_positions: bool = False) -> Any:
    """Mean over samples of the squared error (N, ..., C), summed over channels with weights.

    Args:
        scores: (N, C), or (N, 1) for one weight a sample.
        sums_positions: sum over positions: with scores by channel that is the diagonal of the
            second-order loss. Otherwise their mean, as EPTQ has it.
    """
    squared = tf.square(error)
    axes = list(range(1, len(squared.shape) - 1))
    reduce = tf.reduce_sum if sums_positions else tf.reduce_mean
    by_channel = reduce(squared, axis=axes) if axes else squared
    return tf.reduce_mean(tf.reduce_sum(scores * by_channel, axis=-1))


def spread(scores: Any, shape: Any, *, sums_positions: bool) -> Any:
    """What `weighted_square` multiplies every squared error by: (N, 1, ..., C) or (N, 1, ..., 1).

    Args:
        shape: of the error, (N, ..., C).
    """
    positions = 1 if sums_positions else int(np.prod(shape[1:-1]))
    count = ops.cast(ops.shape(scores)[0], "float32")
    middle = [1] * (len(shape) - 2)
    return ops.reshape(scores, [-1, *middle, scores.shape[-1]]) / (count * positions)


def _sum_by_layer(keys: list[Any], values: np.ndarray) -> dict[str, float]:
    result: dict[str, float] = {}
    for (name, _), value in zip(keys, values, strict=True):
        result[name] = result.get(name, 0.0) + float(value)
    return result


def distil(
    quantized: QuantizedModel,
    teacher: keras.Model,
    samples: Sequence[np.ndarray],
    attention: Sequence[np.ndarray],
    config: QuantizationConfig,
    callbacks: Sequence[keras.callbacks.Callback] | None = None,
    backup_path: Path | None = None,
) -> None:
    """Learns the rounding, scales and biases of `quantized` from `teacher`.

    Args:
        samples: one array a model input, float32 (N, ...).
        attention: one float32 array (N, channels) or (N, 1) for each weighted call, see
            `tfeptq.hessian.label_free`.
        callbacks: they see the steps that are still to do, none where all were done before.
        backup_path: where the optimisation is saved and resumed, see `tfeptq.rounding.backup`.

    Raises:
        ValueError: it diverged; names the layer.
    """
    _choose_variables(quantized, teacher, samples, config)
    uses_xla = _gains_from_xla(quantized)
    distillation = Distillation(quantized, teacher, attention, config, is_fused=not uses_xla)
    quantized.attach(distillation)
    quantized.compile(optimizer=_optimizer(config), jit_compile=uses_xla)
    # Variables created inside the first step would have it traced and compiled twice.
    quantized.optimizer.build(quantized.trainable_variables)
    epochs = min(20, config.steps)
    steps_per_epoch = -(-config.steps // epochs)
    backup = TrainingBackup(backup_path, steps_per_epoch * epochs) if backup_path else None
    done = backup.restore(quantized) if backup else 0
    if done < steps_per_epoch * epochs:
        remembered = distillation.teacher.remember(samples, batch_size=config.batch_size)
        order = sample_order(
            len(samples[0]), config.batch_size, steps_per_epoch * epochs, seed=config.seed
        )
        quantized.fit(
            _dataset(samples, attention, remembered, order[done:]),
            initial_epoch=done // steps_per_epoch,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            callbacks=[
                StepProgress(steps_per_epoch * epochs, "distillation"),
                *(callbacks or ()),
                *([backup] if backup else ()),
            ],
            shuffle=False,
            verbose=0,
        )
        if backup:
            backup.close()
    quantized.attach(None)
    _require_convergence(quantized, config)
    for layer in quantized.weighted_layers:
        layer.settle_structure()


def _require_convergence(quantized: QuantizedModel, config: QuantizationConfig) -> None:
    for layer in quantized.layers:
        values = [np.abs(array).max(initial=0.0) for array in layer.get_weights()]
        is_scaled = isinstance(layer, (QuantizedWeights, ActivationQuantizer))
        factor = np.abs(layer.log_scale).max() if is_scaled else 0.0
        if not np.isfinite(values).all() or factor > _LARGEST_FACTOR:
            raise ValueError(
                f"training diverged in layer {layer.name!r}: take a lower learning_rate than "
                f"{config.learning_rate:g} (its default is {QuantizationConfig.learning_rate:g}) "
                f"or rounding_learning_rate than {config.rounding_learning_rate:g} (default "
                f"{QuantizationConfig.rounding_learning_rate:g})"
            )


def _quick_calls(graph: LayerGraph, *, is_fused: bool) -> LayerGraph:
    """The same calls without what training does not need: kernels' grids are set after it."""

    def quick(call: Call) -> Call:
        options = dict(call.options)
        if isinstance(call.layer, ActivationQuantizer):
            options["is_fused"] = is_fused
        if isinstance(call.layer, (QuantizedWeights, QuantizedMean, Narrowing)):
            options["imitates_kernel"] = False
        return dataclasses.replace(call, options=options)

    return dataclasses.replace(graph, calls=tuple(map(quick, graph.calls)))


def _gains_from_xla(quantized: QuantizedModel) -> bool:
    """XLA's CPU backend runs depthwise gradients on one thread: 12 times slower on DS-CNN."""
    has_depthwise = any(
        linear.map_of(layer.layer).is_grouped for layer in quantized.weighted_layers
    )
    return not has_depthwise or bool(tf.config.list_logical_devices("GPU"))


def _optimizer(config: QuantizationConfig) -> keras.optimizers.Optimizer:
    warmup = max(config.steps // 50, 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(config.steps - warmup, 1), warmup_target=config.learning_rate, warmup_steps=warmup
    )
    return keras.optimizers.Adam(schedule)


def sample_order(count: int, batch_size: int, steps: int, *, seed: int) -> np.ndarray:
    """Which samples each step takes, int32 (steps, batch): one shuffled pass after the other.

    It depends on nothing but its arguments: a run that was stopped goes on with the same batches.
    """
    batch_size = min(batch_size, count)
    passes = -(-steps * batch_size // count)
    order = [np.random.default_rng([seed, index]).permutation(count) for index in range(passes)]
    taken = np.concatenate(order)[: steps * batch_size]
    return taken.reshape(steps, batch_size).astype(np.int32)


def _dataset(
    samples: Sequence[np.ndarray],
    attention: Sequence[np.ndarray],
    remembered: Sequence[tf.Tensor],
    order: np.ndarray,
) -> tf.data.Dataset:
    """Batches of all three in the given order; indices travel, not what they stand for."""
    columns = tf.nest.map_structure(
        tf.convert_to_tensor, (tuple(samples), tuple(attention), tuple(remembered))
    )

    def rows(indices: tf.Tensor) -> Any:
        return tf.nest.map_structure(lambda column: tf.gather(column, indices), columns)

    indices = tf.data.Dataset.from_tensor_slices(order.reshape(-1))
    return indices.batch(order.shape[1], drop_remainder=True).map(rows).prefetch(2)


def _choose_variables(
    quantized: QuantizedModel,
    teacher: keras.Model,
    samples: Sequence[np.ndarray],
    config: QuantizationConfig,
) -> None:
    """Marks what is learned, and in which units: one learning rate suits all."""
    graph = LayerGraph.of(teacher)
    count = fitting_batch(teacher, 32, copies=1)
    tensors = graph.execute([tf.constant(array[:count]) for array in samples])
    squares: dict[str, list[tf.Tensor]] = {}
    for call in weighted_calls(graph):
        mean_square = tf.reduce_mean(tf.square(tensors[call.output]))
        squares.setdefault(call.layer.name, []).append(mean_square)
    for name, of_calls in squares.items():
        layer = quantized.get_layer(name)
        rms = float(tf.sqrt(tf.add_n(of_calls) / len(of_calls)))
        layer.set_units(
            rounding=config.rounding_learning_rate / config.learning_rate, bias=rms or 1.0
        )
        layer.keep_structure()
        layer.set_learned(scales=config.train_scales, biases=config.train_biases)
    for quantizer in quantized.activation_quantizers:
        quantizer.set_learned(scale=config.train_scales)
