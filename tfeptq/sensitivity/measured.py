"""How far the outputs move when layers are rounded, measured by a forward pass.

No prediction: the float model with some layers' weights replaced by what rounding without training
makes of them, and some activations by what their quantizers do. Others stay float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical.layer_graph import Key, LayerGraph
from tfeptq.data.memory import WholeBatches, fitting_forward_batch
from tfeptq.hessian.activations import Grid, grid_error
from tfeptq.hessian.distillation import SelfDistillation
from tfeptq.hessian.output_units import output_units
from tfeptq.hessian.pairs import Candidate, RoundingError
from tfeptq.stage_samples import first


class MeasuredDivergence:
    """Mean divergence of the outputs from the float model's; each choice is measured once.

    Args:
        model: canonical float model; its weights are changed during a call, and restored.
        samples: one array a model input, float32 (N, ...); the first `count` are used.
        errors: (layer name, width) -> what rounding adds to its weights.
        grids: (quantizer name, width) -> what it does to activations. A tensor that is copied into
            other codes as well has those of the first of its quantizers.
    """

    def __init__(
        self,
        model: keras.Model,
        samples: Sequence[np.ndarray],
        errors: Mapping[Candidate, RoundingError],
        grids: Mapping[Candidate, Grid] | None = None,
        *,
        count: int | None = None,
    ) -> None:
        self._model, self._errors, self._grids = model, errors, grids or {}
        graph = LayerGraph.of(model)
        self._distillation = SelfDistillation(model, output_units(model, samples))
        count = first(count, len(samples[0]))
        self._batches = WholeBatches(samples, count, fitting_forward_batch(model, count))
        self._quantizers: dict[Key, str] = {}
        for (name, _), grid in self._grids.items():
            for key in grid.keys:
                self._quantizers.setdefault(key, name)
        indices = {key: index for index, key in enumerate(self._quantizers)}

        @tf.function(autograph=False)
        def logits(inputs: list[tf.Tensor], settings: tf.Tensor) -> list[tf.Tensor]:
            def moved(key: Key, values: tf.Tensor) -> tf.Tensor:
                if key not in indices:
                    return values
                grid = settings[indices[key]]
                # Where nothing is asked of a quantizer its scale is zero.
                return values + tf.where(grid[0] > 0.0, grid_error(values, grid), 0.0)

            def hook(call: Any, _: list[Any], output: tf.Tensor) -> tf.Tensor:
                return moved(call.output, output)

            given = [moved(key, value) for key, value in zip(graph.inputs, inputs, strict=True)]
            tensors = graph.execute(given, hook=hook)
            return [tensors[key] for key in self._distillation.keys]

        self._logits = logits
        self._reference = self._outputs({})
        self._known: dict[tuple[frozenset[Candidate], frozenset[Candidate]], float] = {}

    def __call__(
        self, widths: Mapping[str, int], activations: Mapping[str, int] | None = None
    ) -> float:
        """Of layer name -> width and quantizer name -> width; what is left out stays float."""
        activations = activations or {}
        key = frozenset(widths.items()), frozenset(activations.items())
        if key not in self._known:
            self._known[key] = self._measured(widths, activations)
        return self._known[key]

    def _measured(self, widths: Mapping[str, int], activations: Mapping[str, int]) -> float:
        layers = LayerGraph.of(self._model).layers
        old = {name: layers[name].get_weights() for name in widths}
        try:
            for name, (kernel, bias) in old.items():
                error = self._errors[name, widths[name]]
                layers[name].set_weights([kernel + error.kernel, bias + error.bias])
            moved = self._outputs(activations)
        finally:
            for name, values in old.items():
                layers[name].set_weights(values)
        return float(tf.reduce_mean(self._distillation.divergence(self._reference, moved)))

    def _outputs(self, activations: Mapping[str, int]) -> dict[Key, tf.Tensor]:
        chosen = [
            self._grids[name, activations[name]].settings if name in activations else tf.zeros(4)
            for name in self._quantizers.values()
        ]
        settings = tf.stack(chosen) if chosen else tf.zeros((0, 4))
        found = [
            [tensor[repeated:] for tensor in self._logits(batch, settings)]
            for batch, repeated in zip(self._batches, self._batches.repeats, strict=True)
        ]
        outputs = [tf.concat(parts, axis=0) for parts in zip(*found, strict=True)]
        return dict(zip(self._distillation.keys, outputs, strict=True))
