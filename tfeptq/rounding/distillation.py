"""Network-wise distillation: learns the rounding of all layers at once (EPTQ, section 4.2-4.3).

Activations are quantized gradually and the rounding is hardened gradually: short schedules need the
network to train on the integers that it will ship.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.config import QuantizationConfig
from tfeptq.data.memory import fitting_batch
from tfeptq.data.shares import trained_together
from tfeptq.hessian.output_units import output_units
from tfeptq.hessian.probes import weighted_calls
from tfeptq.model import QuantizedModel
from tfeptq.progress import StepProgress
from tfeptq.quantized.learned import choose_learned
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedWeights
from tfeptq.rounding.backup import TrainingBackup
from tfeptq.rounding.batches import batches, sample_order
from tfeptq.rounding.schedule import adam
from tfeptq.rounding.shared_step import SharedStep, gradients_of_parts
from tfeptq.rounding.training_record import TrainingRecord
from tfeptq.rounding.training_step import Distillation

#: Epochs at most: so often the error is looked at, and what was learned is saved.
_EPOCHS = 20
#: The loss rises while the rounding hardens: the error is what falls.
_SHOWN = {"error": "output error {:.2%}"}
#: What the logarithm of a scale may have changed by, in its unit: no training that converges comes
#: near it.
_LARGEST_CHANGE = 30.0


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
        attention: one float32 array (N, channels) or (N, 1) for each compared call, see
            `tfeptq.hessian.label_free`.
        callbacks: they see the steps that are still to do, none where all were done before.
        backup_path: where the optimisation is saved and resumed, see `tfeptq.rounding.backup`.

    Raises:
        ValueError: it diverged; names the layer.
    """
    _choose_variables(quantized, teacher, samples, config)
    taught = _compile(quantized, teacher, samples, attention, config)
    record = TrainingRecord(quantized, teacher, samples)
    _fit(quantized, taught, record, samples, attention, config, callbacks, backup_path)
    quantized.attach(None)
    # Neither the optimizer's moments nor its way of running stay with the model.
    quantized.compile(jit_compile=False)
    quantized.report.training = record.rows
    _require_convergence(quantized, config)
    for layer in quantized.weighted_layers:
        layer.settle_structure()


def _compile(
    quantized: QuantizedModel,
    teacher: keras.Model,
    samples: Sequence[np.ndarray],
    attention: Sequence[np.ndarray],
    config: QuantizationConfig,
) -> Distillation | None:
    """Gives the model its training step.

    Returns:
        The step that asks the teacher; None where workers do.
    """
    uses_xla = _gains_from_xla()
    units = output_units(teacher, samples)
    distillation = Distillation(
        quantized, teacher, attention, config, is_compiled=uses_xla, units=units
    )
    run = trained_together(
        gradients_of_parts,
        {
            "quantized": quantized,
            "teacher": teacher,
            "samples": samples,
            "attention": attention,
            "units": units,
            "config": dataclasses.replace(config, accuracy_target=None, augmentation=None),
            "uses_xla": uses_xla,
        },
    )
    quantized.attach(distillation if run is None else SharedStep(run, distillation))
    is_eager = run is not None
    quantized.compile(optimizer=adam(config), jit_compile=False, run_eagerly=is_eager)
    # Variables created inside the first step would have it traced and compiled twice.
    quantized.optimizer.build(quantized.trainable_variables)
    return None if is_eager else distillation


def _fit(
    quantized: QuantizedModel,
    taught: Distillation | None,
    record: TrainingRecord,
    samples: Sequence[np.ndarray],
    attention: Sequence[np.ndarray],
    config: QuantizationConfig,
    callbacks: Sequence[keras.callbacks.Callback] | None,
    backup_path: Path | None,
) -> None:
    """The steps that are still to do."""
    epochs, steps_per_epoch = epochs_of(config.steps)
    total = steps_per_epoch * epochs
    backup = TrainingBackup(backup_path, total, record) if backup_path else None
    done = backup.restore(quantized) if backup else 0
    if done >= total:
        return
    order = sample_order(len(samples[0]), config.batch_size, total, seed=config.seed)[done:]
    if taught is None:
        fed = tf.data.Dataset.from_tensor_slices(order)
    else:
        folder = None if backup_path is None else backup_path.parent
        remembered = taught.teacher.remember(samples, batch_size=config.batch_size, folder=folder)
        fed = batches(samples, attention, remembered, order)
    quantized.fit(
        fed,
        initial_epoch=done // steps_per_epoch,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        callbacks=[
            record,
            StepProgress(total, "distillation", _SHOWN),
            *(callbacks or ()),
            *([backup] if backup else ()),
        ],
        shuffle=False,
        verbose=0,
    )
    if backup:
        backup.close()


def epochs_of(steps: int) -> tuple[int, int]:
    """How many epochs, and steps of each: those that are asked for, the last epoch filled up."""
    each = -(-steps // _EPOCHS)
    return -(-steps // each), each


def _require_convergence(quantized: QuantizedModel, config: QuantizationConfig) -> None:
    for layer in quantized.layers:
        values = [np.abs(array).max(initial=0.0) for array in layer.get_weights()]
        is_scaled = isinstance(layer, (QuantizedWeights, ActivationQuantizer))
        learned = np.abs(layer.log_scale).max() if is_scaled else 0.0
        if not np.isfinite(values).all() or learned > _LARGEST_CHANGE:
            raise ValueError(
                f"training diverged in layer {layer.name!r}: take a lower learning_rate than "
                f"{config.learning_rate:g} (its default is {QuantizationConfig.learning_rate:g}) "
                f"or rounding_learning_rate than {config.rounding_learning_rate:g} (default "
                f"{QuantizationConfig.rounding_learning_rate:g})"
            )


def _gains_from_xla() -> bool:
    """Whether losses and gradients are compiled whole.

    On a CPU TensorFlow's convolutions and fused kernels between them take less memory and nothing
    to compile, and as long: 6 % more on one computer, 16 % less on another. XLA's gradients of
    depthwise convolutions run on one thread there, 12 times slower on DS-CNN.
    """
    return bool(tf.config.list_logical_devices("GPU"))


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
    layers = LayerGraph.of(quantized).layers
    for name, of_calls in squares.items():
        layer = layers[name]
        rms = float(tf.sqrt(tf.add_n(of_calls) / len(of_calls)))
        layer.set_units(
            rounding=config.rounding_learning_rate / config.learning_rate, bias=rms or 1.0
        )
    choose_learned(quantized, config)
