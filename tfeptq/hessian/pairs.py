"""Second-order loss of errors, layer by layer and pair by pair, by products with J.

"Augmenting Hessians with Inter-Layer Dependencies" (arXiv 2306.04879), eq. 3-5, needs e_i'H e_j for
the errors e of all layers. With self-distillation H = mean_n J_n'A_n J_n, so one Jacobian-vector
product a layer, r_i = A^(1/2) J e_i, gives its terms with every other layer as dot products:
e_i'H e_j = mean_n r_i.r_j. That is what u_j = H e_j and e_i.u_j compute, at a third of the cost,
and the matrix of all terms is positive semidefinite as estimated, not only in expectation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.data.memory import WholeBatches, fitting_batch
from tfeptq.hessian.activations import ActivationProducts, Grid
from tfeptq.hessian.distillation import SelfDistillation
from tfeptq.hessian.output_units import OutputUnits, output_units
from tfeptq.progress import progress
from tfeptq.stage_samples import first

#: A layer (or an activation quantizer) by its name, at a width.
Candidate = tuple[str, int]


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
) -> PairTerms:
    """Second-order terms of all candidates (layer, width) with each other.

    Args:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...); the first `count` are used.
        errors: of weights, or of the activations that a grid rounds; in the order of the result.
    """
    count = first(count, len(samples[0]))
    batch_size = fitting_batch(model, min(batch_size, count), copies=3)
    units = output_units(model, samples)
    of_weights = _JacobianProducts(model, units)
    grids = [error for error in errors.values() if isinstance(error, Grid)]
    of_activations = ActivationProducts(model, grids, units)
    sums, squares = np.zeros((2, len(errors), len(errors)))
    batches = WholeBatches(samples, count, batch_size)
    steps = [(index, candidate) for index in range(len(batches)) for candidate in errors]
    rows: list[np.ndarray] = []
    for index, candidate in progress(steps, "pair terms"):
        batch, error = batches[index], errors[candidate]
        if isinstance(error, Grid):
            rows.append(of_activations(batch, error))
        else:
            rows.append(of_weights(batch, candidate[0], error))
        if len(rows) == len(errors):
            by_sample = _by_sample(np.array(rows, np.float64)[:, batches.repeats[index] :])
            sums += by_sample.sum(axis=0)
            squares += np.square(by_sample).sum(axis=0)
            rows = []
    mean = sums / count
    variance = np.maximum(squares / count - np.square(mean), 0.0)
    return PairTerms(mean, np.sqrt(variance / max(count - 1, 1)))


def _by_sample(rows: np.ndarray) -> np.ndarray:
    """Dot products of all candidates, (samples, candidates, candidates), of (candidates, N, K)."""
    by_sample = rows.transpose(1, 0, 2)
    return by_sample @ by_sample.transpose(0, 2, 1)


class _JacobianProducts:
    """A^(1/2) J e for one layer's error at a time, compiled once: (N, outputs)."""

    def __init__(self, model: keras.Model, units: OutputUnits | None = None) -> None:
        self._graph = LayerGraph.of(model)
        self._distillation = SelfDistillation(model, units)
        self._layers = {layer.name: layer for layer in model.layers if linear.is_weighted(layer)}
        variables = [(layer.kernel, layer.bias) for layer in self._layers.values()]
        self._variables = [variable.value for pair in variables for variable in pair]
        self._run = tf.function(self._traced)

    def __call__(self, inputs: list[tf.Tensor], layer: str, error: RoundingError) -> np.ndarray:
        tangents = [tf.zeros(variable.shape) for variable in self._variables]
        position = 2 * list(self._layers).index(layer)
        tangents[position : position + 2] = [tf.constant(error.kernel), tf.constant(error.bias)]
        return self._run(inputs, tangents).numpy()

    def _traced(self, inputs: list[tf.Tensor], tangents: list[tf.Tensor]) -> tf.Tensor:
        with tf.autodiff.ForwardAccumulator(self._variables, tangents) as accumulator:
            tensors = self._graph.execute(inputs)
            logits = [tensors[key] for key in self._distillation.keys]
        shifts = accumulator.jvp(logits, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return self._distillation.whiten(logits, shifts)
