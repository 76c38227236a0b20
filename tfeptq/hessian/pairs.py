"""Second-order loss of errors, layer by layer and pair by pair, by products with J.

"Augmenting Hessians with Inter-Layer Dependencies" (arXiv 2306.04879), eq. 3-5, needs e_i'H e_j for
the errors e of all layers. With self-distillation H = mean_n J_n'A_n J_n, so that the terms are dot
products, e_i'H e_j = mean_n r_i.r_j with r_i = A^(1/2) J e_i, and the matrix of all of them is
positive semidefinite as estimated, not only in expectation.

The elements of all r_i come from the same few backward passes: v'r_i is the gradient of
v'A^(1/2) y at the layer's output times what e_i alone adds to that output, which takes the layer
only. One-hot v give r_i exactly; with many outputs random ones do, since E[(v'r_i)(v'r_j)] =
r_i.r_j. So a sample costs one forward pass, one backward pass a probe and a forward pass a width,
however many layers there are.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.data.memory import WholeBatches, gradient_batch
from tfeptq.data.shares import mapped
from tfeptq.hessian.activations import Grid
from tfeptq.hessian.distillation import SelfDistillation
from tfeptq.hessian.output_units import OutputUnits, output_units
from tfeptq.hessian.probes import PARALLEL_PROBES, Probe, shaped_gradients, weighted_calls
from tfeptq.hessian.samplewise import summed
from tfeptq.stage_samples import first

#: A layer (or an activation quantizer) by its name, at a width.
Candidate = tuple[str, int]
#: Makes what an error adds to a tensor from all tensors of a batch.
Move = Callable[[Mapping[Key, tf.Tensor]], tf.Tensor]
#: Random probes of a sample where its outputs are too many: samples differ by more than these do.
PAIR_PROBES = 4


@dataclasses.dataclass(frozen=True)
class RoundingError:
    """What one layer's parameters change by: float32, in the kernel's and the bias's shape."""

    kernel: np.ndarray
    bias: np.ndarray

    @property
    def squared_norm(self) -> float:
        """||Q(W) - W||^2, of the kernel alone."""
        return float(np.square(self.kernel, dtype=np.float64).sum())


@dataclasses.dataclass(frozen=True)
class PairTerms:
    """e_i'H e_j of all candidates and their standard errors, float64 (candidates, candidates).

    Half the diagonal is the predicted loss of one layer quantized alone; an entry off the diagonal
    is what two layers together add to the sum of theirs. Few samples carry most of a trained
    network's curvature: off the diagonal the errors are not small.
    """

    terms: np.ndarray
    errors: np.ndarray


def pair_terms(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    errors: Mapping[Candidate, RoundingError | Grid],
    *,
    count: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> PairTerms:
    """Second-order terms of all candidates (layer, width) with each other.

    Args:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...); the first `count` are used.
        errors: of weights, or of the activations that a grid rounds; in the order of the result.
        seed: of random probes, where outputs are too many for exact ones.
    """
    count = first(count, len(samples[0]))
    batch_size = gradient_batch(model, min(batch_size, count), copies=_copies(model, errors))
    inputs = {
        "model": model,
        "samples": samples,
        "errors": errors,
        "units": output_units(model, samples),
        "count": count,
        "batch_size": batch_size,
        "seed": seed,
    }
    sums, squares = np.zeros((2, len(errors), len(errors)))
    batches = range(len(WholeBatches(samples, count, batch_size)))
    for rows in mapped(_products_of_batches, inputs, batches, "pair terms"):
        by_sample = _dot_products(rows.astype(np.float64))
        sums += by_sample.sum(axis=0)
        squares += np.square(by_sample).sum(axis=0)
    mean = sums / count
    variance = np.maximum(squares / count - np.square(mean), 0.0)
    return PairTerms(mean, np.sqrt(variance / max(count - 1, 1)))


def _copies(model: keras.Model, errors: Mapping[Candidate, RoundingError | Grid]) -> int:
    """Arrays of the size of every tensor that are alive at once: what is added, and passes."""
    calls = weighted_calls(LayerGraph.of(model))
    moved: Counter[Key] = Counter()
    for (name, _), error in errors.items():
        own = (call.output for call in calls if call.layer.name == name)
        moved.update(error.keys if isinstance(error, Grid) else own)
    return 3 + max(moved.values(), default=0)


def _products_of_batches(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    errors: Mapping[Candidate, RoundingError | Grid],
    units: OutputUnits | None,
    count: int,
    batch_size: int,
    seed: int,
) -> Callable[[int], np.ndarray]:
    """Computes `_DirectionalProducts` of the batch of a number, each sample once."""
    products = _DirectionalProducts(model, errors, seed=seed, units=units)
    batches = WholeBatches(samples, count, batch_size)
    return lambda index: products(batches[index], index)[:, batches.repeats[index] :]


def _dot_products(rows: np.ndarray) -> np.ndarray:
    """Of all candidates with each other, (N, candidates, candidates), of (candidates, N, K)."""
    by_sample = rows.transpose(1, 0, 2)
    return by_sample @ by_sample.transpose(0, 2, 1)


class _DirectionalProducts:
    """v'A^(1/2) J e of all candidates, compiled once.

    Args:
        errors: of all candidates.
        seed: of random probes v, where outputs are too many for exact ones.
        units: of the outputs.
    """

    def __init__(
        self,
        model: keras.Model,
        errors: Mapping[Candidate, RoundingError | Grid],
        *,
        seed: int,
        units: OutputUnits | None,
    ) -> None:
        self._probe = Probe(model, probes=PAIR_PROBES, seed=seed)
        self._graph = LayerGraph.of(model)
        self._distillation = SelfDistillation(model, units)
        self._moves = [
            self._of_grid(error) if isinstance(error, Grid) else self._of_weights(name, error)
            for (name, _), error in errors.items()
        ]
        self._keys = tuple(dict.fromkeys(key for moves in self._moves for key in moves))
        self._run = tf.function(self._traced, autograph=False)

    def __call__(self, inputs: list[tf.Tensor], index: int) -> np.ndarray:
        """(candidates, N, probes) of the batch number `index`."""
        vectors = self._probe.probe_vectors(inputs[0].shape[0], index=index)
        return self._run(inputs, tf.constant(vectors)).numpy().transpose(1, 2, 0)

    def _of_weights(self, name: str, error: RoundingError) -> dict[Key, Move]:
        calls = (call for call in self._probe.calls if call.layer.name == name)
        # Not Python constants of the traced function: it would hold copies of them.
        kernel, bias = tf.constant(error.kernel), tf.constant(error.bias)

        def of(call: Call) -> Move:
            def move(tensors: Mapping[Key, tf.Tensor]) -> tf.Tensor:
                added = linear.linear_operation(call.layer, tensors[call.inputs[0]], kernel)
                return added + bias

            return move

        return {call.output: of(call) for call in calls}

    def _of_grid(self, grid: Grid) -> dict[Key, Move]:
        def of(key: Key) -> Move:
            return lambda tensors: grid.error(tensors[key])

        return {key: of(key) for key in grid.keys}

    def _traced(self, inputs: list[tf.Tensor], vectors: tf.Tensor) -> tf.Tensor:
        """(probes, candidates, N)."""
        with tf.GradientTape(persistent=True) as tape:
            given = [tf.identity(tensor) for tensor in inputs]
            tape.watch(given)

            def watch(call: Call, _: list[Any], output: tf.Tensor) -> tf.Tensor:
                if call.output not in self._keys:
                    return output
                # A layer may return what it was given; its gradient is that behind this call.
                own = tf.identity(output)
                tape.watch(own)
                return own

            tensors = self._graph.execute(given, hook=watch)
            outputs = self._distillation.whitened(tensors)
        added = [{key: move(tensors) for key, move in moves.items()} for moves in self._moves]
        sources = [tensors[key] for key in self._keys]

        def one_probe(vector: tf.Tensor) -> tf.Tensor:
            found = shaped_gradients(tape, outputs, sources, vector)
            gradients = dict(zip(self._keys, found, strict=True))
            return tf.stack(
                [
                    tf.add_n([summed(gradients[key] * part) for key, part in parts.items()])
                    for parts in added
                ]
            )

        return tf.map_fn(one_probe, vectors, parallel_iterations=PARALLEL_PROBES)
