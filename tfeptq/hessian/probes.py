"""Label-free Hessian bound: squared Jacobians of the logits at every tensor, in one backward pass.

At a trained optimum the task-loss Hessian at a tensor z is bounded by ||J||_F^2 with J = dy/dz
(EPTQ, arXiv 2309.11531, section 3). ||J[:, i]||^2 = E_v[(J'v)_i^2] for v with E[vv'] = I; with
few outputs the one-hot probes give the sum exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.canonical.logits import logit_keys
from tfeptq.canonical.primitives import is_product
from tfeptq.hessian.output_units import OutputUnits
from tfeptq.hessian.samplewise import flattened

#: Up to this many outputs the exact one-hot probes are used.
EXACT_OUTPUTS = 32
#: Otherwise so many random ones. On MobileNetV2 with 200 classes and 64 samples they estimate
#: weight scores to 4 % and attention to 11 % (root mean square); 100 probes to 2 and 6 %.
RANDOM_PROBES = 32
#: Backward passes at a time. More are not faster, and each takes its own memory.
PARALLEL_PROBES = 2


def weighted_calls(graph: LayerGraph) -> list[Call]:
    return [call for call in graph.calls if linear.is_weighted(call.layer)]


def compared_calls(graph: LayerGraph) -> list[Call]:
    """Calls whose results the distillation compares: products with weights, and of two tensors."""
    return [
        call for call in graph.calls if linear.is_weighted(call.layer) or is_product(call.layer)
    ]


def shaped_gradients(
    tape: tf.GradientTape, target: tf.Tensor, sources: Sequence[tf.Tensor], vector: tf.Tensor
) -> list[tf.Tensor]:
    """Gradients of `target` times `vector`, in the static shapes of `sources`; zero without a path.

    The gradient of a Permute or Reshape takes its shape from the forward pass, and inside a loop
    that shape is a value which nobody knows when the loop is traced.
    """
    gradients = tape.gradient(
        target, sources, vector, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    pairs = zip(gradients, sources, strict=True)
    return [tf.ensure_shape(gradient, source.shape) for gradient, source in pairs]


class Probe:
    """Gradients of probed logits at the outputs of some calls, all at once.

    Args:
        model: canonical float model.
        calls: which they are; by default those of layers with weights.
        probes: number of random probes where the logits are too many for the exact ones.
        units: in which outputs are compared; None: as they are.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        calls: Callable[[LayerGraph], list[Call]] = weighted_calls,
        probes: int = RANDOM_PROBES,
        seed: int = 0,
        units: OutputUnits | None = None,
    ) -> None:
        self.graph = LayerGraph.of(model)
        self.calls = calls(self.graph)
        self._logits, self._units = logit_keys(model), units
        shapes = self.graph.shapes(model)
        self.outputs = int(sum(np.prod(shapes[key][1:]) for key in self._logits))
        self.exact = self.outputs <= EXACT_OUTPUTS
        self.count = self.outputs if self.exact else probes
        self._seed = seed

    def probe_vectors(self, batch: int, *, index: int = 0) -> np.ndarray:
        """Probes of one batch, (count, batch, outputs): one-hot, or Rademacher +-1 / sqrt(count).

        With this scaling the sum over probes of (J'v)^2 estimates ||J||^2, exactly when one-hot.
        """
        if self.exact:
            eye = np.eye(self.outputs, dtype=np.float32)
            return np.repeat(eye[:, None, :], batch, axis=1)
        generator = np.random.default_rng([self._seed, index])
        signs = generator.integers(0, 2, (self.count, batch, self.outputs)) * 2 - 1
        return (signs / np.sqrt(self.count)).astype(np.float32)

    def accumulate(
        self,
        inputs: Sequence[tf.Tensor],
        vectors: tf.Tensor,
        reduce: Callable[[Call, tf.Tensor, tf.Tensor], tf.Tensor],
    ) -> list[tf.Tensor]:
        """Sum over probes of `reduce(call, layer input, gradient)` for every one of the calls.

        One forward pass, and one backward pass a probe that serves all layers. Traced inside a
        compiled function.
        """
        arguments: dict[Key, tf.Tensor] = {}
        watched = {call.output for call in self.calls}
        with tf.GradientTape(persistent=True) as tape:

            def watch(call: Call, call_inputs: list[Any], output: tf.Tensor) -> tf.Tensor:
                if call.output in watched:
                    tape.watch(output)
                    arguments[call.output] = call_inputs[0]
                return output

            tensors = self.graph.execute(inputs, hook=watch)
            parts = [tensors[key] for key in self._logits]
            parts = parts if self._units is None else self._units.scaled(parts)
            logits = tf.concat([flattened(part) for part in parts], axis=1)
        sources = [tensors[call.output] for call in self.calls]

        def one_probe(vector: tf.Tensor) -> list[tf.Tensor]:
            gradients = shaped_gradients(tape, logits, sources, vector)
            return [
                reduce(call, arguments[call.output], gradient)
                for call, gradient in zip(self.calls, gradients, strict=True)
            ]

        if vectors.shape[0] == 1:
            return one_probe(vectors[0])
        shapes: list[tf.TensorShape] = []

        def body(index: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
            parts = one_probe(tf.gather(vectors, index))
            shapes[:] = [part.shape for part in parts]
            return (index + 1, *[total + part for total, part in zip(sums, parts, strict=True)])

        count = tf.shape(vectors)[0]
        # Sums begin as scalars: who knows their shapes before has traced a backward pass for them.
        _, *sums = tf.while_loop(
            lambda index, *_: index < count,
            body,
            (tf.constant(0), *[tf.constant(0.0)] * len(sources)),
            shape_invariants=(tf.TensorShape([]), *[tf.TensorShape(None)] * len(sources)),
            parallel_iterations=PARALLEL_PROBES,
        )
        return [tf.ensure_shape(total, shape) for total, shape in zip(sums, shapes, strict=True)]
