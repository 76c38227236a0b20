"""Weight thresholds by what a layer computes: the squared error of its output.

For one channel that is (w - Q(w))' C (w - Q(w)), C the covariance of the layer's inputs (their
second moments, where no bias makes up for means). Errors of weights whose inputs go together add
up in it or cancel, which no score of single weights tells. `tfeptq.calibrate.thresholds` has
those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.calibrate.thresholds import (
    MANY,
    STEP_OF_MANY,
    fitted_grid,
    largest_weights,
    least_thresholds,
    of_kernel,
    settled,
)
from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.canonical.turns import turns
from tfeptq.config import WEIGHT_GRIDS, QuantizationConfig
from tfeptq.data.shares import mapped, shares
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.model import QuantizedModel
from tfeptq.quantized.weight_grid import WeightGrid
from tfeptq.rounding.gptq import damped
from tfeptq.rounding.layerwise import fitting_samples, float_moments

#: Step of candidates where weights are few: each takes a product with their covariance.
_STEP_OF_FEW = 0.01
#: Around the best of these, in their step.
_REFINEMENT = np.linspace(-0.8, 0.8, 9)
#: Widths with fewer values than that clip enough for thresholds to matter.
_FINE_BITS = 8


def looks_at(method: str, bits: int) -> str:
    """What thresholds of a width are chosen by: "scores", "covariance" or "weights" alone."""
    if bits >= _FINE_BITS:
        return "weights"
    return {"hmse": "scores", "output": "covariance"}.get(method, "weights")


def suited_grid(
    layer: keras.Layer,
    *,
    grid: str,
    bits: int,
    method: str,
    per_channel: bool,
    scores: np.ndarray | None = None,
    covariance: np.ndarray | None = None,
) -> WeightGrid:
    """Grid of the kernel of a weighted primitive, with the steps that suit its weights best.

    Args:
        grid: its kind, by its name in `tfeptq.config.WEIGHT_GRIDS`.
        method: "output", "hmse", "mse" or "max"; of 8 bits, which clip next to nothing, the first
            two are "mse".
        scores, covariance: h_w in the kernel's shape, and of inputs, (groups, K, K): what
            `looks_at` asks for.
    """
    source = looks_at(method, bits)
    if source == "covariance":
        assert covariance is not None
        kind = WEIGHT_GRIDS.find(grid)
        return _by_output(layer, covariance, kind=kind, bits=bits, per_channel=per_channel)
    plain = "mse" if source == "weights" and method != "max" else method
    used = scores if source == "scores" else None
    return fitted_grid(layer, used, grid=grid, bits=bits, method=plain, per_channel=per_channel)


def set_thresholds(
    quantized: QuantizedModel,
    model: keras.Model,
    samples: Sequence[np.ndarray],
    scores: FloatScores,
    config: QuantizationConfig,
) -> None:
    """Gives every weighted layer of `quantized` the steps that suit it best, by `config.clipping`.

    Args:
        model: the canonical float model with the same layer names.
        samples: one array a model input, float32 (N, ...).
        scores: of the float model, for layers that look at them.
    """
    layers = {layer.name: layer for layer in quantized.weighted_layers}
    asked = {name: looks_at(config.clipping, layer.bits) for name, layer in layers.items()}
    count = config.stages.covariances
    if "covariance" in asked.values():
        scores.note("thresholds", fitting_samples(model, samples, count))
    inputs = {
        "model": model,
        "samples": samples,
        "asked": asked,
        "settings": {
            name: {"grid": each.grid_name, "bits": each.bits, "per_channel": each.per_channel}
            for name, each in layers.items()
        },
        "scores": scores.weights if "scores" in asked.values() else {},
        "method": config.clipping,
        "count": count,
        "is_centered": config.bias_correction,
    }
    # Those that look at covariances, which are found on the way, in the order of the network.
    names = [name for name in layers if asked[name] != "covariance"]
    in_turn = (turn.layer.name for turn in turns(LayerGraph.of(model), linear.WEIGHTED_LAYERS))
    names += [name for name in in_turn if asked[name] == "covariance"]
    parts = [[names[number] for number in share] for share in shares(len(names))]
    for grids in mapped(_grids_of_layers, inputs, parts, "thresholds"):
        for name, grid in grids.items():
            layers[name].set_grid(grid)


def _grids_of_layers(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    asked: Mapping[str, str],
    settings: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, np.ndarray],
    method: str,
    count: int,
    is_centered: bool,
) -> Callable[[Sequence[str]], dict[str, WeightGrid]]:
    """Finds the grids of the layers of some names, by what each is asked to look at."""

    layers = LayerGraph.of(model).layers

    def of_layers(names: Sequence[str]) -> dict[str, WeightGrid]:
        def suited(name: str, **known: Any) -> WeightGrid:
            return suited_grid(layers[name], method=method, **settings[name], **known)

        by_output = {name for name in names if asked[name] == "covariance"}
        grids = {
            name: suited(name, scores=scores.get(name)) for name in names if name not in by_output
        }
        if by_output:
            moments = float_moments(
                model, samples, count=count, is_centered=is_centered, names=by_output
            )
            for layer, found in moments:
                grids[layer.name] = suited(layer.name, covariance=found.covariance())
        return grids

    return of_layers


def _by_output(
    layer: keras.Layer,
    covariance: np.ndarray,
    *,
    kind: type[WeightGrid],
    bits: int,
    per_channel: bool,
) -> WeightGrid:
    """The grid of a kind under which the layer's output is wrong by least."""
    kernel = np.asarray(layer.kernel)
    largest = largest_weights(linear.by_channel(layer, kernel))
    if not per_channel:
        largest = np.full_like(largest, largest.max())
    weights = linear.by_group(layer, kernel)
    # Inputs that never vary leave their weights the plain squared error.
    matrix = damped(covariance).astype(np.float32)

    def errors(thresholds: np.ndarray) -> np.ndarray:
        """Of each channel, or of all together."""
        spread = _by_group(layer, thresholds.astype(np.float32), kernel.shape)
        error = kind.of_threshold(spread, bits=bits).error(weights)
        square = np.sum(error * (matrix @ error), axis=1, keepdims=True, dtype=np.float64)
        rows = np.broadcast_to(square, weights.shape)
        found = linear.by_channel(layer, linear.from_groups(layer, rows))[:, 0]
        return found if per_channel else np.full_like(found, found.sum())

    step = _STEP_OF_FEW if weights.shape[1] < MANY else STEP_OF_MANY
    best = least_thresholds(errors, largest, kind, bits=bits, step=step, refinements=(_REFINEMENT,))
    thresholds = best if per_channel else best[:1]
    grid = kind.of_threshold(thresholds[:, None], bits=bits, per_channel=per_channel)
    squares = np.broadcast_to(np.diagonal(matrix, axis1=1, axis2=2)[..., None], weights.shape)
    rows, importance = (
        linear.by_channel(layer, each) for each in (kernel, linear.from_groups(layer, squares))
    )
    if not per_channel:
        rows, importance = rows.reshape(1, -1), importance.reshape(1, -1)
    return of_kernel(layer, settled(grid, rows, importance))


def _by_group(layer: keras.Layer, by_channel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One value a channel as it meets the kernel in groups, (groups, 1, channels of a group)."""
    spread = np.broadcast_to(
        by_channel.reshape(linear.scale_shape(layer, shape, per_channel=True)), shape
    )
    return linear.by_group(layer, spread)[:, :1]
