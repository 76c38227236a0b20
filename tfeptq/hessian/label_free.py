"""Label-free scores: Sample-Layer Attention and element-wise weight scores (EPTQ, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import Call
from tfeptq.data.memory import WholeBatches, fitting_batch
from tfeptq.hessian.output_units import output_units
from tfeptq.hessian.probes import Probe
from tfeptq.progress import progress
from tfeptq.stage_samples import first


def channel_attention(
    model: keras.Model, samples: Sequence[np.ndarray], *, batch_size: int = 64, seed: int = 0
) -> list[np.ndarray]:
    """Mean over positions of the squared Jacobian of the logits at z_l, sample by channel.

    What EPTQ's attention (section 4.2) takes the maximum of; see `sample_layer_attention`. Exact
    when the logits are few, otherwise estimated with random probes, without bias.

    Args:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...).

    Returns:
        One float32 array (N, channels) for each call of a weighted layer, in execution order.
    """
    # Not compiled by XLA: on a CPU it runs convolutions of a loop on one thread, 17 times slower.
    probe = Probe(model, seed=seed, units=output_units(model, samples))
    total = len(samples[0])
    batch_size = fitting_batch(model, min(batch_size, total), copies=3)

    @tf.function
    def scores(inputs: list[tf.Tensor], vectors: tf.Tensor) -> list[tf.Tensor]:
        return probe.accumulate(inputs, vectors, _mean_square_by_channel)

    batches = []
    for start in progress(range(0, total, batch_size), "attention scores"):
        # The last batch reaches back instead of being shorter: one shape, one compilation.
        begin = min(start, total - batch_size)
        batch = [tf.constant(array[begin : begin + batch_size]) for array in samples]
        vectors = tf.constant(probe.probe_vectors(batch_size, index=start))
        batches.append([part.numpy()[start - begin :] for part in scores(batch, vectors)])
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def sample_layer_attention(
    model: keras.Model, samples: Sequence[np.ndarray], *, batch_size: int = 64, seed: int = 0
) -> np.ndarray:
    """s[n, l], the largest `channel_attention` of the layer: SLA, EPTQ, section 4.2.

    No logarithm, no normalisation; the constant of the bound drops out of every use. With random
    probes it is biased upwards by the maximum: 5 % at 100 probes, more at fewer.

    Returns:
        float32 (N, number of calls of weighted layers in execution order).
    """
    by_channel = channel_attention(model, samples, batch_size=batch_size, seed=seed)
    return np.stack([scores.max(axis=-1) for scores in by_channel], axis=1)


def _mean_square_by_channel(_: Call, inputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    del inputs
    axes = list(range(1, len(gradient.shape) - 1))
    squared = tf.square(gradient)
    return tf.reduce_mean(squared, axis=axes) if axes else squared


def weight_scores(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    *,
    count: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """h_w = mean over samples of the squared Jacobian of the logits, weight by weight.

    EPTQ, section 4.1 (Hmse). Per sample and exact when the logits are few: the squared gradient of
    a sample is the square of its patches times its output gradient.

    Args:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...); the first `count` are used.

    Returns:
        layer name -> float32 in the kernel's shape; calls of a shared layer are summed.
    """
    probe = Probe(model, seed=seed, units=output_units(model, samples))
    count = first(count, len(samples[0]))
    # Patches of inputs hold each value as often as the kernel has positions, often 9.
    batch_size = fitting_batch(model, min(batch_size, count), copies=12)

    def squared(call: Call, inputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        return linear.squared_weight_jacobian(call.layer, inputs, gradient)

    @tf.function
    def scores(inputs: list[tf.Tensor], vectors: tf.Tensor) -> list[tf.Tensor]:
        return probe.accumulate(inputs, vectors, squared)

    totals: dict[str, np.ndarray] = {}
    batches = WholeBatches(samples, count, batch_size)
    for index, batch in enumerate(progress(batches, "weight scores")):
        vectors = probe.probe_vectors(batches.size, index=index)
        # What has no probe has no gradient, and adds nothing.
        vectors[:, : batches.repeats[index]] = 0.0
        for call, part in zip(probe.calls, scores(batch, tf.constant(vectors)), strict=True):
            totals[call.layer.name] = totals.get(call.layer.name, 0.0) + part.numpy()
    return {name: total / count for name, total in totals.items()}
