"""Average Hessian traces of all layers by Hutchinson's estimator (HAWQ-V2, arXiv 1911.03852).

With self-distillation H is the mean of J_n'A_n J_n over samples n, and Tr(H_l) is the mean square
of sum_n J_n'A_n^(1/2) v_n in the layer's weights, over the samples, for v_n of independent signs,
one vector for each sample's outputs: one backward pass for a batch serves all layers, and none adds
noise to another.

The loss of labels has no such form: there Tr(H) = E[v'Hv] for v of independent signs at the
weights. One probe serves all layers: their parts of v are independent, so what other layers add to
(Hv)_l has mean zero. It has a variance, though: layers of large curvature would drown the others.
Each layer's signs are therefore scaled by the inverse root of a rough curvature. Hv comes from a
double backward pass.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.data.memory import gradient_batch
from tfeptq.data.shares import mapped
from tfeptq.hessian.distillation import SelfDistillation
from tfeptq.hessian.output_units import OutputUnits, output_units

_ZERO = tf.UnconnectedGradients.ZERO


@dataclasses.dataclass(frozen=True)
class Traces:
    """Average trace Tr(H_l) / n_l of every layer.

    Attributes:
        mean: layer name -> estimate.
        error: layer name -> its standard error, over batches and probes together.
        draws: pairs of a batch and a probe that were averaged.
    """

    mean: dict[str, float]
    error: dict[str, float]
    draws: int

    @property
    def relative_error(self) -> float:
        """The largest standard error of a layer as a fraction of its estimate."""
        return max(self.error[name] / max(abs(self.mean[name]), 1e-30) for name in self.mean)


class HessianProducts:
    """v -> Hv in the kernels of all weighted layers, on one batch, compiled once.

    Args:
        model: canonical float model.
        loss: (outputs, labels) -> scalar for a Hessian with labels, where `outputs` are the
            model's; None: self-distillation, without labels.
        units: of the outputs in self-distillation.
    """

    def __init__(
        self,
        model: keras.Model,
        loss: Callable[[list[Any], Any], tf.Tensor] | None = None,
        units: OutputUnits | None = None,
    ) -> None:
        self._graph = LayerGraph.of(model)
        self._distillation = SelfDistillation(model, units)
        self._loss = loss
        layers = [layer for layer in model.layers if linear.is_weighted(layer)]
        self.names = [layer.name for layer in layers]
        self._kernels = [layer.kernel.value for layer in layers]
        # Not compiled by XLA: on a CPU it runs second derivatives of convolutions on one thread.
        self.products = tf.function(self._products, autograph=False)
        self.quadratic_forms = tf.function(self._quadratic_forms, autograph=False)

    @property
    def sizes(self) -> list[int]:
        return [int(np.prod(kernel.shape)) for kernel in self._kernels]

    def _loss_of(self, tensors: dict[Key, Any], labels: Any) -> tf.Tensor:
        if self._loss is None:
            return self._distillation.loss(tensors)
        return self._loss([tensors[key] for key in self._graph.outputs], labels)

    def _vector_shapes(self, batch_size: int) -> list[tuple[int, ...]]:
        del batch_size
        return [tuple(kernel.shape) for kernel in self._kernels]

    def _products(
        self, inputs: list[tf.Tensor], vectors: list[tf.Tensor], labels: Any = None
    ) -> list[tf.Tensor]:
        """Hv of every layer, in the kernels' shapes."""
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = self._loss_of(self._graph.execute(inputs, hook=_by_its_map), labels)
            gradients = inner.gradient(loss, self._kernels, unconnected_gradients=_ZERO)
            pairs = zip(gradients, vectors, strict=True)
            projection = tf.add_n([tf.reduce_sum(g * v) for g, v in pairs])
        return outer.gradient(projection, self._kernels, unconnected_gradients=_ZERO)

    def _quadratic_forms(
        self, inputs: list[tf.Tensor], seed: tf.Tensor, scales: tf.Tensor, labels: Any = None
    ) -> tf.Tensor:
        """Unbiased estimates of every Tr(H) from one probe, (layers,)."""
        signs = [
            _signs(shape, tf.stack([seed[0], seed[1] + index]))
            for index, shape in enumerate(self._vector_shapes(inputs[0].shape[0]))
        ]
        vectors = [scales[index] * sign for index, sign in enumerate(signs)]
        products = self._products(inputs, vectors, labels)
        forms = [tf.reduce_sum(v * product) for v, product in zip(signs, products, strict=True)]
        return tf.stack(forms) / scales


class OutputProbes(HessianProducts):
    """Traces of self-distillation from probes of the outputs: one backward pass, not two."""

    def _quadratic_forms(
        self, inputs: list[tf.Tensor], seed: tf.Tensor, scales: tf.Tensor, labels: Any = None
    ) -> tf.Tensor:
        del scales, labels
        with tf.GradientTape() as tape:
            outputs = self._distillation.whitened(self._graph.execute(inputs, hook=_by_its_map))
            projection = tf.reduce_sum(outputs * _signs(tf.shape(outputs), seed))
        gradients = tape.gradient(projection, self._kernels, unconnected_gradients=_ZERO)
        squares = [tf.reduce_sum(tf.square(gradient)) for gradient in gradients]
        return tf.stack(squares) / inputs[0].shape[0]


class ActivationHessian(HessianProducts):
    """The same in tensors between layers, where every sample has its own block of the Hessian.

    The loss is the mean over the batch: v'Hv is then the mean of the samples' forms.

    Args:
        keys: the tensors.
    """

    def __init__(
        self,
        model: keras.Model,
        keys: Sequence[Key],
        loss: Callable[[list[Any], Any], tf.Tensor] | None = None,
        units: OutputUnits | None = None,
    ) -> None:
        super().__init__(model, loss, units)
        self._keys = tuple(keys)
        shapes = self._graph.shapes(model)
        self._shapes = [shapes[key][1:] for key in self._keys]
        self.names = [tensor_name(key) for key in self._keys]

    @property
    def sizes(self) -> list[int]:
        return [int(np.prod(shape)) for shape in self._shapes]

    def _vector_shapes(self, batch_size: int) -> list[tuple[int, ...]]:
        return [(batch_size, *shape) for shape in self._shapes]

    def _products(
        self, inputs: list[tf.Tensor], vectors: list[tf.Tensor], labels: Any = None
    ) -> list[tf.Tensor]:
        offsets = [tf.zeros_like(vector) for vector in vectors]
        shifts = dict(zip(self._keys, offsets, strict=True))

        def shifted(key: Key, value: tf.Tensor) -> tf.Tensor:
            return value + shifts[key] if key in shifts else value

        with tf.GradientTape() as outer:
            outer.watch(offsets)
            with tf.GradientTape() as inner:
                inner.watch(offsets)
                given = [shifted(*pair) for pair in zip(self._graph.inputs, inputs, strict=True)]
                tensors = self._graph.execute(
                    given, hook=lambda call, _, output: shifted(call.output, output)
                )
                loss = self._loss_of(tensors, labels)
            gradients = inner.gradient(loss, offsets, unconnected_gradients=_ZERO)
            pairs = zip(gradients, vectors, strict=True)
            projection = tf.add_n([tf.reduce_sum(g * v) for g, v in pairs])
        return outer.gradient(projection, offsets, unconnected_gradients=_ZERO)


def _by_its_map(call: Call, inputs: list[Any], output: Any) -> Any:
    """A weighted layer's output, by the map whose gradient in the kernel is sound."""
    layer = call.layer
    if not linear.is_weighted(layer):
        return output
    return linear.linear_operation(layer, inputs[0], layer.kernel) + layer.bias


def tensor_name(key: Key) -> str:
    """What a tensor is called in `Traces`."""
    return f"{key[0]}:{key[1]}"


def _signs(shape: Sequence[int] | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    bits = tf.random.stateless_uniform(shape, seed, maxval=2, dtype=tf.int32)
    return tf.cast(2 * bits - 1, tf.float32)


def average_traces(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    *,
    curvatures: Mapping[str, float] | None = None,
    labels: np.ndarray | None = None,
    loss: Callable[[list[Any], Any], tf.Tensor] | None = None,
    keys: Sequence[Key] | None = None,
    batch_size: int = 32,
    tolerance: float = 0.1,
    draws: tuple[int, int] = (20, 400),
    seed: int = 0,
) -> Traces:
    """Average trace of every weighted layer, or of tensors, with a running standard error.

    Args:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...); batches follow one another in a random
            order, each with a probe of its own, so that the error covers both.
        curvatures: layer name -> rough curvature of a weight in any unit (mean weight scores will
            do), which takes most of the noise that layers add to each other where there are labels
            or keys; by default all equal.
        keys: tensors to take instead of the layers' kernels, named by `tensor_name`. A sample has
            a Hessian of its own there: averages are over samples too.
        labels, loss: with both, the Hessian of `loss(outputs, labels)`; without, self-distillation.
        tolerance: stop when every layer's standard error is below this part of its estimate.
        draws: least and largest number of pairs of batch and probe.
    """
    units = output_units(model, samples) if loss is None else None
    products = _products(model, loss, keys, units)
    batch_size = gradient_batch(model, min(batch_size, len(samples[0])), copies=6)
    generator = np.random.default_rng(seed)
    total = len(samples[0])
    chosen = [
        (draw, np.sort(generator.choice(total, batch_size, replace=False)))
        for draw in range(draws[1])
    ]
    inputs = {
        "model": model,
        "samples": samples,
        "labels": labels,
        "loss": loss,
        "keys": keys,
        "units": units,
        "scales": _probe_scales(products.names, curvatures or {}),
        "seed": seed,
    }
    values: list[np.ndarray] = []
    for form in mapped(_forms_of_draws, inputs, chosen, "Hessian traces"):
        values.append(form)
        traces = _summary(products, np.array(values, np.float64))
        if len(values) >= draws[0] and traces.relative_error < tolerance:
            return traces
    if traces.relative_error >= tolerance:
        warnings.warn(
            f"Hessian traces: after {traces.draws} draws the standard error of a layer is still "
            f"{traces.relative_error:.0%} of its trace, asked for were {tolerance:.0%}; "
            "sensitivity='inter_layer' needs no traces",
            stacklevel=2,
        )
    return traces


def _products(
    model: keras.Model,
    loss: Callable[[list[Any], Any], tf.Tensor] | None,
    keys: Sequence[Key] | None,
    units: OutputUnits | None,
) -> HessianProducts:
    if keys is not None:
        return ActivationHessian(model, keys, loss, units)
    kind = OutputProbes if loss is None else HessianProducts
    return kind(model, loss, units)


def _forms_of_draws(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    labels: np.ndarray | None,
    loss: Callable[[list[Any], Any], tf.Tensor] | None,
    keys: Sequence[Key] | None,
    units: OutputUnits | None,
    scales: np.ndarray,
    seed: int,
) -> Callable[[tuple[int, np.ndarray]], np.ndarray]:
    """Computes the quadratic forms of a draw: its number, and the samples that it looks at."""
    products = _products(model, loss, keys, units)

    def of_draw(draw: tuple[int, np.ndarray]) -> np.ndarray:
        number, chosen = draw
        batch = [tf.constant(array[chosen]) for array in samples]
        targets = None if labels is None else tf.constant(labels[chosen])
        # Every layer draws its signs from a seed of its own, above those of the draw before.
        signs = tf.constant([seed, number * len(products.names)])
        return products.quadratic_forms(batch, signs, tf.constant(scales), targets).numpy()

    return of_draw


def _probe_scales(names: Sequence[str], curvatures: Mapping[str, float]) -> np.ndarray:
    rough = np.array([curvatures.get(name, 1.0) for name in names], np.float64)
    # A layer that no output depends on has no curvature: any scale will do.
    rough = np.where(rough > 0.0, rough, rough.max(initial=1.0))
    return (1.0 / np.sqrt(rough)).astype(np.float32)


def _summary(products: HessianProducts, values: np.ndarray) -> Traces:
    """Mean and standard error over draws, per weight of the layer."""
    scaled = values / np.array(products.sizes)
    count = len(scaled)
    spread = scaled.std(axis=0, ddof=1) if count > 1 else np.full(scaled.shape[1], np.inf)
    mean, error = scaled.mean(axis=0), spread / np.sqrt(count)
    return Traces(_named(products, mean), _named(products, error), count)


def _named(products: HessianProducts, values: np.ndarray) -> dict[str, float]:
    return dict(zip(products.names, map(float, values), strict=True))


def as_arrays(traces: Traces) -> dict[str, np.ndarray]:
    """Plain arrays, to be kept."""
    return {
        "names": np.array(list(traces.mean)),
        "mean": np.array(list(traces.mean.values())),
        "error": np.array(list(traces.error.values())),
        "draws": np.array(traces.draws),
    }


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Traces:
    """Inverse of `as_arrays`."""
    names = [str(name) for name in arrays["names"]]
    mean, error = (dict(zip(names, arrays[key].tolist(), strict=True)) for key in ("mean", "error"))
    return Traces(mean, error, int(arrays["draws"]))
