"""Second-order loss of activation errors: one average trace a tensor (HAWQ-V2, section 3.3).

The Hessian in an activation tensor is block-diagonal over samples, so every sample has a trace and
an error of its own. With self-distillation a sample's block is J'AJ, and with few outputs its trace
is ||A^(1/2) J||^2 exactly: one backward pass an output serves all tensors of all samples, without
the variance of Hutchinson's probes in the tensors. Many outputs get random probes there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical.integer_types import activation_range
from tfeptq.canonical.layer_graph import Key, LayerGraph
from tfeptq.data.memory import WholeBatches, gradient_batch
from tfeptq.data.shares import mapped
from tfeptq.hessian.distillation import SelfDistillation
from tfeptq.hessian.output_units import OutputUnits, output_units
from tfeptq.hessian.probes import PARALLEL_PROBES, Probe, shaped_gradients
from tfeptq.hessian.samplewise import flattened, summed
from tfeptq.stage_samples import first


@dataclasses.dataclass(frozen=True)
class Grid:
    """What an activation quantizer does to the tensors that it serves.

    Attributes:
        keys: the tensors, which are canonical and before quantization.
        bits: 4 to 8, or 16.
    """

    keys: tuple[Key, ...]
    scale: float
    zero_point: int
    bits: int

    @property
    def settings(self) -> tf.Tensor:
        """Scale, zero point, lowest and highest code, float32 (4,)."""
        return tf.constant([self.scale, self.zero_point, *activation_range(self.bits)], tf.float32)

    def error(self, values: tf.Tensor) -> tf.Tensor:
        """Q(values) - values."""
        return grid_error(values, self.settings)


@dataclasses.dataclass(frozen=True)
class ActivationMoments:
    """Means over samples, in the order of the grids that they were asked for, float64 (grids,).

    Attributes:
        traces: sum over a sample's elements of the squared Jacobian (the trace of its Hessian).
        sizes: elements of a sample.
        squares: ||Q(a) - a||^2 of a sample.
        weighted: sum over elements of squared Jacobian times squared error.
        trace_errors: standard errors of the traces.
    """

    traces: np.ndarray
    sizes: np.ndarray
    squares: np.ndarray
    weighted: np.ndarray
    trace_errors: np.ndarray


def activation_moments(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    grids: Sequence[Grid],
    *,
    is_whitened: bool,
    count: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
) -> ActivationMoments:
    """Curvature at activations and the errors that grids make there.

    Args:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...); the first `count` are used.
        is_whitened: Jacobian of A^(1/2) times the logits, A the Hessian of self-distillation in
            them, so that traces are those of its Hessian; otherwise of the logits themselves.
    """
    count = first(count, len(samples[0]))
    batch_size = gradient_batch(model, min(batch_size, count), copies=6)
    inputs = {
        "model": model,
        "samples": samples,
        "grids": grids,
        "is_whitened": is_whitened,
        "units": output_units(model, samples),
        "count": count,
        "batch_size": batch_size,
        "seed": seed,
    }
    batches = range(len(WholeBatches(samples, count, batch_size)))
    parts = list(mapped(_moments_of_batches, inputs, batches, "activation traces"))
    values = np.concatenate(parts, axis=-1).astype(np.float64)
    mean = values.mean(axis=-1)
    shapes = LayerGraph.of(model).shapes(model)
    sizes = [sum(int(np.prod(shapes[key][1:])) for key in grid.keys) for grid in grids]
    return ActivationMoments(
        traces=mean[0],
        sizes=np.array(sizes, np.float64),
        squares=mean[1],
        weighted=mean[2],
        trace_errors=_standard_error(values[0]),
    )


def _moments_of_batches(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    grids: Sequence[Grid],
    is_whitened: bool,
    units: OutputUnits | None,
    count: int,
    batch_size: int,
    seed: int,
) -> Callable[[int], np.ndarray]:
    """Computes `_Moments.batch` of the batch of a number."""
    probe = Probe(model, seed=seed)
    run = tf.function(
        _Moments(model, grids, is_whitened=is_whitened, units=units).batch, autograph=False
    )
    batches = WholeBatches(samples, count, batch_size)

    def of_batch(index: int) -> np.ndarray:
        vectors = tf.constant(probe.probe_vectors(batches.size, index=index * batches.size))
        return run(batches[index], vectors).numpy()[..., batches.repeats[index] :]

    return of_batch


def _standard_error(values: np.ndarray) -> np.ndarray:
    """Of means over the last axis; NaN of a single value."""
    if values.shape[-1] < 2:
        return np.full(values.shape[:-1], np.nan)
    return values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1])


class _Moments:
    """The compiled part: one forward pass, one backward pass a probe."""

    def __init__(
        self,
        model: keras.Model,
        grids: Sequence[Grid],
        *,
        is_whitened: bool,
        units: OutputUnits | None,
    ) -> None:
        self._units = units
        self._graph = LayerGraph.of(model)
        self._distillation = SelfDistillation(model, units)
        self._grids, self._is_whitened = grids, is_whitened
        self._keys = tuple(dict.fromkeys(key for grid in grids for key in grid.keys))

    def batch(self, inputs: list[tf.Tensor], vectors: tf.Tensor) -> tf.Tensor:
        """(3, grids, N): traces, squared errors, and their products element by element."""
        tensors, squares = self._squared_jacobians(inputs, vectors)
        rows = [tf.stack(self._of_grid(grid, tensors, squares)) for grid in self._grids]
        return tf.stack(rows, axis=1)

    def _squared_jacobians(
        self, inputs: list[tf.Tensor], vectors: tf.Tensor
    ) -> tuple[dict[Key, tf.Tensor], dict[Key, tf.Tensor]]:
        """Every tensor, and the sum over probes of its squared gradient, in its shape."""
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(inputs)

            def watch(call: Any, _: list[Any], output: tf.Tensor) -> tf.Tensor:
                if call.output in self._keys:
                    tape.watch(output)
                return output

            tensors = self._graph.execute(inputs, hook=watch)
            outputs = self._outputs(tensors)
        sources = [tensors[key] for key in self._keys]

        def squared(vector: tf.Tensor) -> list[tf.Tensor]:
            gradients = shaped_gradients(tape, outputs, sources, vector)
            return [tf.square(gradient) for gradient in gradients]

        def body(index: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
            parts = squared(tf.gather(vectors, index))
            return (index + 1, *[total + part for total, part in zip(sums, parts, strict=True)])

        count = tf.shape(vectors)[0]
        state = (tf.constant(1), *squared(vectors[0]))
        _, *sums = tf.while_loop(
            lambda index, *_: index < count, body, state, parallel_iterations=PARALLEL_PROBES
        )
        return tensors, dict(zip(self._keys, sums, strict=True))

    def _outputs(self, tensors: Mapping[Key, tf.Tensor]) -> tf.Tensor:
        """(N, outputs): what is probed."""
        if self._is_whitened:
            return self._distillation.whitened(tensors)
        logits = [tensors[key] for key in self._distillation.keys]
        parts = logits if self._units is None else self._units.scaled(logits)
        return tf.concat([flattened(part) for part in parts], axis=1)

    def _of_grid(
        self, grid: Grid, tensors: Mapping[Key, tf.Tensor], squares: Mapping[Key, tf.Tensor]
    ) -> tuple[tf.Tensor, ...]:
        errors = {key: tf.square(grid.error(tensors[key])) for key in grid.keys}
        return (
            tf.add_n([summed(squares[key]) for key in grid.keys]),
            tf.add_n([summed(errors[key]) for key in grid.keys]),
            tf.add_n([summed(squares[key] * errors[key]) for key in grid.keys]),
        )


def grid_error(values: tf.Tensor, settings: tf.Tensor) -> tf.Tensor:
    """Q(values) - values; `settings` are those of a `Grid`."""
    scale, zero_point, low, high = tf.unstack(settings)
    codes = tf.clip_by_value(tf.round(values / scale) + zero_point, low, high)
    return (codes - zero_point) * scale - values
