"""The weight errors that each candidate width makes, as they will ship without training.

Rounding with the configured thresholds, and the bias correction that follows it: what selection
compares is what is written without training and where the optimisation starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import Key, LayerGraph
from tfeptq.canonical.turns import turns
from tfeptq.canonical.walk import Walk
from tfeptq.config import QuantizationConfig
from tfeptq.data.memory import WholeBatches, passing_batch
from tfeptq.data.shares import mapped, shares
from tfeptq.hessian.pairs import Candidate, RoundingError
from tfeptq.hessian.probes import weighted_calls
from tfeptq.plan.weights import WeightStorage
from tfeptq.quantized.weight_grid import WeightGrid
from tfeptq.rounding.layerwise import float_moments, rounded
from tfeptq.rounding.thresholds import suited_grid
from tfeptq.stage_samples import first


@dataclasses.dataclass(frozen=True)
class WeightErrors:
    """What every candidate, (layer name, width), adds to its layer's weights and bias.

    Attributes:
        shipped: as they are written without training, or as training starts: by OPTQ, each layer
            alone and on float inputs, or to nearest.
        nearest: by nearest rounding.
        shares: what `shipped` leaves of the squared error that `nearest` makes in the layer's
            output; 1 where they are the same.
    """

    shipped: dict[Candidate, RoundingError]
    nearest: dict[Candidate, RoundingError]
    shares: dict[Candidate, float]

    @property
    def kinds(self) -> tuple[dict[Candidate, Any], ...]:
        """All three."""
        return self.shipped, self.nearest, self.shares


def as_arrays(errors: WeightErrors) -> dict[str, np.ndarray]:
    """Plain arrays, to be kept."""
    arrays = {
        "names": np.array([name for name, _ in errors.shares]),
        "bits": np.array([bits for _, bits in errors.shares]),
        "shares": np.array(list(errors.shares.values())),
    }
    for kind, found in (("shipped", errors.shipped), ("nearest", errors.nearest)):
        for index, error in enumerate(found.values()):
            arrays[f"{kind} {index} kernel"] = error.kernel
            arrays[f"{kind} {index} bias"] = error.bias
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray]) -> WeightErrors:
    """Inverse of `as_arrays`."""
    order = list(zip(map(str, arrays["names"]), arrays["bits"].tolist(), strict=True))
    shipped, nearest = (
        {
            candidate: RoundingError(
                arrays[f"{kind} {index} kernel"], arrays[f"{kind} {index} bias"]
            )
            for index, candidate in enumerate(order)
        }
        for kind in ("shipped", "nearest")
    )
    return WeightErrors(shipped, nearest, dict(zip(order, arrays["shares"].tolist(), strict=True)))


def weight_errors(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    candidates: Mapping[str, tuple[WeightStorage, ...]],
    scores: Mapping[str, np.ndarray],
    config: QuantizationConfig,
) -> WeightErrors:
    """Errors of every layer at every width.

    Args:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...).
        candidates: layer name -> how its weights may be held.
        scores: layer name -> weight scores, where thresholds look at them.
    """
    count = first(config.stages.rounding_errors, len(samples[0]))
    inputs = {
        "model": model,
        "samples": samples,
        "candidates": candidates,
        "scores": scores,
        "means": _mean_inputs(model, samples, count),
        "config": dataclasses.replace(config, accuracy_target=None, augmentation=None),
    }
    in_turn = [turn.layer.name for turn in turns(LayerGraph.of(model), linear.WEIGHTED_LAYERS)]
    parts = [[in_turn[number] for number in share] for share in shares(len(in_turn))]
    found = WeightErrors({}, {}, {})
    for part in mapped(_errors_of_layers, inputs, parts, "rounding errors"):
        for whole, errors in zip(found.kinds, part.kinds, strict=True):
            whole.update(errors)
    order = [(name, held.bits) for name, several in candidates.items() for held in several]
    return WeightErrors(
        {key: found.shipped[key] for key in order},
        {key: found.nearest[key] for key in order},
        {key: found.shares[key] for key in order},
    )


def _errors_of_layers(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    candidates: Mapping[str, tuple[WeightStorage, ...]],
    scores: Mapping[str, np.ndarray],
    means: Mapping[str, Sequence[np.ndarray]],
    config: QuantizationConfig,
) -> Callable[[Sequence[str]], WeightErrors]:
    """Finds the errors of the layers of some names."""

    def of_layers(names: Sequence[str]) -> WeightErrors:
        found = WeightErrors({}, {}, {})
        for layer, covariance in _covariances(model, samples, config, set(names)):
            for held in candidates.get(layer.name, ()):
                candidate = layer.name, held.bits
                grid = suited_grid(
                    layer,
                    grid=held.grid,
                    bits=held.bits,
                    method=config.clipping,
                    per_channel=held.per_channel,
                    scores=scores.get(layer.name),
                    covariance=covariance,
                )
                nearest, shipped = _kernel_errors(layer, grid, covariance, config)
                for errors, kernel in ((found.nearest, nearest), (found.shipped, shipped)):
                    bias = _mean_shift(layer, kernel, means[layer.name])
                    errors[candidate] = RoundingError(kernel, -bias * config.bias_correction)
                found.shares[candidate] = _share(layer, shipped, nearest, covariance)
        return found

    return of_layers


def _kernel_errors(
    layer: keras.Layer, grid: WeightGrid, covariance: np.ndarray | None, config: QuantizationConfig
) -> tuple[np.ndarray, np.ndarray]:
    """By nearest rounding, and as the layer ships without training."""
    nearest = _nearest(layer, grid)
    if config.untrained_rounding != "optq":
        return nearest, nearest
    assert covariance is not None
    return nearest, _optq(layer, grid, covariance, config)


def _covariances(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    config: QuantizationConfig,
    names: Collection[str],
) -> Iterator[tuple[keras.Layer, np.ndarray | None]]:
    """Weighted layers, one at a time with the covariance of its inputs if anything needs it."""
    if config.untrained_rounding == "nearest" and config.clipping != "output":
        for call in weighted_calls(LayerGraph.of(model)):
            if call.layer.name in names:
                yield call.layer, None
        return
    moments = float_moments(
        model,
        samples,
        count=config.stages.covariances,
        is_centered=config.bias_correction,
        names=names,
    )
    for layer, found in moments:
        yield layer, found.covariance()


def _nearest(layer: keras.Layer, grid: WeightGrid) -> np.ndarray:
    kernel = np.asarray(layer.kernel)
    return (grid.values(grid.nearest(kernel)) - kernel).astype(np.float32)


def _optq(
    layer: keras.Layer, grid: WeightGrid, covariance: np.ndarray, config: QuantizationConfig
) -> np.ndarray:
    kernel, is_trained = np.asarray(layer.kernel), config.rounding == "eptq"
    integers = rounded(layer, kernel, grid, covariance, is_trained_later=is_trained)
    return (grid.values(integers) - kernel).astype(np.float32)


def _share(
    layer: keras.Layer, shipped: np.ndarray, nearest: np.ndarray, covariance: np.ndarray | None
) -> float:
    if covariance is None:
        return 1.0
    left, whole = (_output_error(layer, error, covariance) for error in (shipped, nearest))
    return min(left / whole, 1.0) if whole > 0.0 else 1.0


def _output_error(layer: keras.Layer, error: np.ndarray, covariance: np.ndarray) -> float:
    by_group = linear.by_group(layer, error).astype(np.float64)
    return float(np.sum(by_group * (covariance @ by_group)))


def _mean_inputs(
    model: keras.Model, samples: Sequence[np.ndarray], count: int
) -> dict[str, list[np.ndarray]]:
    """Layer name -> mean input of each of its calls, (1, ...)."""
    graph = LayerGraph.of(model)
    batches = WholeBatches(samples, count, passing_batch(model, count))
    sums: dict[Key, list[tf.Tensor]] = {}
    # Not compiled: there are few batches.
    for batch, repeated in zip(batches, batches.repeats, strict=True):
        walk = Walk(graph, [batch])
        for call in weighted_calls(graph):
            inputs = walk[call.inputs[0]][0][repeated:]
            part = tf.reduce_sum(inputs, axis=0, keepdims=True) / count
            sums.setdefault(call.output, []).append(part)
    result: dict[str, list[np.ndarray]] = {}
    for (name, _), parts in sums.items():
        result.setdefault(name, []).append(tf.add_n(parts).numpy())
    return result


def _mean_shift(
    layer: keras.Layer, kernel_error: np.ndarray, means: Sequence[np.ndarray]
) -> np.ndarray:
    """Mean over samples and positions of what the error adds to each output channel.

    The layer is linear: the mean over samples of its outputs is its output on the mean input.
    """
    outputs = [linear.linear_operation(layer, mean, kernel_error) for mean in means]
    shifts = [tf.reduce_mean(out, axis=list(range(len(out.shape) - 1))) for out in outputs]
    return (tf.add_n(shifts) / len(shifts)).numpy()
