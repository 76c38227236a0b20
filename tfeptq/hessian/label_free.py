"""Label-free scores: Sample-Layer Attention and element-wise weight scores (EPTQ, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import Call
from tfeptq.data.memory import WholeBatches, gradient_batch
from tfeptq.data.shares import mapped
from tfeptq.hessian.output_units import OutputUnits, output_units
from tfeptq.hessian.probes import Probe, compared_calls
from tfeptq.stage_samples import first

#: Relative standard error of a layer's weight scores, and passes over the samples, that end the
#: estimate where logits are many. On ResNet8 and DS-CNN one pass with one probe gives thresholds
#: of 2 to 4 bits that lose as much as those of exact scores, within the noise of the samples.
SCORE_ERROR, SCORE_PASSES = 0.3, 2
#: Random probes of a sample where logits are many: their noise averages out over the positions of
#: a layer and over the steps that see the sample.
ATTENTION_PROBES = 8

#: What scores of zeros are divided by.
TINY = 1e-30

#: Layer name -> something for each weight.
Scores = dict[str, Any]


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
        One float32 array (N, channels) for each call of a layer with weights or of a product of
        two tensors, in execution order.
    """
    total = len(samples[0])
    batch_size = gradient_batch(model, min(batch_size, total), copies=3)
    inputs = {
        "model": model,
        "samples": samples,
        "units": output_units(model, samples),
        "batch_size": batch_size,
        "seed": seed,
    }
    batches = mapped(_attention, inputs, range(0, total, batch_size), "attention scores")
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def _attention(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    units: OutputUnits | None,
    batch_size: int,
    seed: int,
) -> Callable[[int], list[np.ndarray]]:
    """Computes `channel_attention` of the batch that begins at a sample."""
    # Not compiled by XLA: on a CPU it runs convolutions of a loop on one thread, 17 times slower.
    probe = Probe(model, calls=compared_calls, probes=ATTENTION_PROBES, seed=seed, units=units)
    total = len(samples[0])

    @tf.function(autograph=False)
    def scores(inputs: list[tf.Tensor], vectors: tf.Tensor) -> list[tf.Tensor]:
        return probe.accumulate(inputs, vectors, _mean_square_by_channel)

    def of_batch(start: int) -> list[np.ndarray]:
        # The last batch reaches back instead of being shorter: one shape, one compilation.
        begin = min(start, total - batch_size)
        batch = [tf.constant(array[begin : begin + batch_size]) for array in samples]
        vectors = tf.constant(probe.probe_vectors(batch_size, index=start))
        return [part.numpy()[start - begin :] for part in scores(batch, vectors)]

    return of_batch


def sample_layer_attention(
    model: keras.Model, samples: Sequence[np.ndarray], *, batch_size: int = 64, seed: int = 0
) -> np.ndarray:
    """s[n, l], the largest `channel_attention` of the layer: SLA, EPTQ, section 4.2.

    No logarithm, no normalisation; the constant of the bound drops out of every use. With random
    probes it is biased upwards by the maximum: 5 % at 100 probes, more at fewer.

    Returns:
        float32 (N, number of calls as in `channel_attention`).
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

    EPTQ, section 4.1 (Hmse). The squared gradient of a sample is the square of its patches times
    its output gradient. Exact when the logits are few. Otherwise each sample gets one random probe
    a pass, which says more for its time than several probes of one sample: samples differ, and
    noise of single weights averages out in a channel. Passes end when the relative standard error
    of every layer's scores is below `SCORE_ERROR`, or after `SCORE_PASSES` of them.

    Args:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...); the first `count` are used.

    Returns:
        layer name -> float32 in the kernel's shape; calls of a shared layer are summed.
    """
    probe = Probe(model, probes=1, seed=seed)
    count = first(count, len(samples[0]))
    # Patches of inputs hold each value as often as the kernel has positions, often 9.
    batch_size = gradient_batch(model, min(batch_size, count), copies=12)
    halves: tuple[Scores, Scores] = {}, {}
    each_pass = len(WholeBatches(samples, count, batch_size))
    passes = 1 if probe.exact else SCORE_PASSES
    inputs = {
        "model": model,
        "samples": samples,
        "units": output_units(model, samples),
        "count": count,
        "batch_size": batch_size,
        "seed": seed,
    }
    found = mapped(_weight_scores, inputs, range(passes * each_pass), "weight scores")
    for draw, parts in enumerate(found):
        half = halves[0 if probe.exact else draw % 2]
        for call, part in zip(probe.calls, parts, strict=True):
            half[call.layer.name] = half.get(call.layer.name, 0.0) + part
        done, rest = divmod(draw + 1, each_pass)
        if not rest and done < passes and score_error(halves) < SCORE_ERROR:
            passes = done
            break
    first_half, second_half = halves
    return {
        name: (total + second_half.get(name, 0.0)) / (count * passes)
        for name, total in first_half.items()
    }


def _weight_scores(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    units: OutputUnits | None,
    count: int,
    batch_size: int,
    seed: int,
) -> Callable[[int], list[np.ndarray]]:
    """Computes what a batch with its draw of probes adds to the scores of every call."""
    probe = Probe(model, probes=1, seed=seed, units=units)
    batches = WholeBatches(samples, count, batch_size)

    def squared(call: Call, inputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        return linear.squared_weight_jacobian(call.layer, inputs, gradient)

    @tf.function(autograph=False)
    def scores(inputs: list[tf.Tensor], vectors: tf.Tensor) -> list[tf.Tensor]:
        return probe.accumulate(inputs, vectors, squared)

    def of_draw(draw: int) -> list[np.ndarray]:
        index = draw % len(batches)
        vectors = probe.probe_vectors(batches.size, index=draw)
        # What has no probe has no gradient, and adds nothing.
        vectors[:, : batches.repeats[index]] = 0.0
        return [part.numpy() for part in scores(batches[index], tf.constant(vectors))]

    return of_draw


def score_error(halves: tuple[Scores, Scores]) -> float:
    """Relative standard error of the sum of two independent halves of a layer's scores.

    The root of the mean square over its weights; of the layer where it is largest. Infinite where
    there is one half only.
    """
    first_half, second_half = halves
    if not second_half:
        return float("inf")
    errors = []
    for name, part in first_half.items():
        difference = np.linalg.norm(part - second_half[name])
        errors.append(
            float(difference) / max(float(np.linalg.norm(part + second_half[name])), TINY)
        )
    return max(errors)
